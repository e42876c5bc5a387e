"""Post-hoc calibrators, one per file; the file name is the name in specs."""
