"""Conformal rules that turn probabilities into prediction sets: the plug-ins of the family `calibrate.conformal`."""
