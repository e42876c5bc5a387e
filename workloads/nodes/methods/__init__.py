"""Methods that calibrate a trained node network on validation nodes, one per file."""
