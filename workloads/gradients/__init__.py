"""One file per gradient rule; the file name is the name in specs."""
