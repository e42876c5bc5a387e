"""Node networks, one per file."""
