"""One file per training objective; the file name is the name in specs."""
