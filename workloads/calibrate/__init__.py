"""Calibration: what a probability is worth."""
