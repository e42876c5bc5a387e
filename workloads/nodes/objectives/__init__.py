"""What is minimised over labelled nodes, one loss per file."""
