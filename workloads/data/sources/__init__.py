"""One file per data source; the file name is the name in specs."""
