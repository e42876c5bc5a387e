"""Executes one attempt of one job, in one process or as a rank of several."""
