"""Where trials run: Ray sessions and their addresses."""
