"""Coordinates processes over files: the lease on a results folder, stop requests, control files, and the decision journal."""
