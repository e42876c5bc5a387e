"""Answers questions about a folder of results: the best run, the Pareto front, names of metrics and columns."""
