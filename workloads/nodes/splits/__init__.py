"""Rules that split nodes into train, val, calib and test, one per file."""
