"""One file per network; the file name is the name in specs."""
