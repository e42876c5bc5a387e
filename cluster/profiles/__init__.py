"""The profiles that ship with the package: places where studies run, one YAML file each."""
