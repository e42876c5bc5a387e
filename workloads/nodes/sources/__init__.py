"""Where graphs come from, one source per file."""
