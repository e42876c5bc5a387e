"""Training objectives on labelled nodes, one per file."""
