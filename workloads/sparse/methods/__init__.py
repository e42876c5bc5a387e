"""One file per sparse-training method; the file name is the name in specs."""
