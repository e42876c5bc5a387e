"""Writes a study as the files of experiment trackers, through their own client libraries."""
