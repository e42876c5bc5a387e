"""Runs the command: `python -m pruneyard run quickstart`."""

from pruneyard.orchestrator.cli import main

main()
