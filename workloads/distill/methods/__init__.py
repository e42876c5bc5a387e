"""One file per way to make or choose a synthetic set; the file name is the name in specs."""
