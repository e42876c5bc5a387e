"""Compares a spec with a folder of results: which jobs are finished, which are missing, what they may cost."""
