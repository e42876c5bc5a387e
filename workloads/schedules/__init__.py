"""One file per learning-rate schedule; the file name is the name in specs."""
