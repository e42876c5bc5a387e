"""Scores of how known an input is to a network: the plug-ins of the family `calibrate.scores`."""
