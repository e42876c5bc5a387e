"""Reads a spec, validates it as a whole and resolves it to jobs with run keys."""
