"""Patterns of masks, one file each; the file name is the name used in specs."""
