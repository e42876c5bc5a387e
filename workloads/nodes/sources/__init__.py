"""Graph sources, one per file."""
