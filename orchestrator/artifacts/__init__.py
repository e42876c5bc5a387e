"""Reads and writes the files of runs: manifests, networks, predictions and checkpoints."""
