"""The driver: from a spec to a population of runs on Ray or in this process, and the command `pruneyard`."""
