"""Conformance suites: the rules that every plug-in of a family must keep, whoever wrote it.

The folder is installed as `pruneyard.testing`. `pytest --pyargs pruneyard.testing --plugin path/to/mymethod.py` holds a
plug-in of your own to the rules of its family; `pruneyard.testing.selection` describes the options.
"""
