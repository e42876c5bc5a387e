"""One file per optimizer; the file name is the name in specs."""
