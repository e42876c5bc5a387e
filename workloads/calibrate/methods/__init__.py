"""One file per post-hoc calibrator; the file name is the name in specs."""
