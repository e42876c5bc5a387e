"""What is done to a trained network with validation nodes, one way per file."""
