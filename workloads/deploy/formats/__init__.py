"""Formats that a finished network can be exported to, one file each; the file name is the name of the format."""
