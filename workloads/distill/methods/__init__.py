"""Methods that synthesise or select a synthetic set, one file each; the file name is the name in specs."""
