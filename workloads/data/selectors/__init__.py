"""One file per way to choose training rows; the file name is the name in specs."""
