"""Executes one attempt of one job, in one process or as one rank of several."""
