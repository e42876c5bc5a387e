"""Rules that select training rows, one file each; the file name is the name in specs."""
