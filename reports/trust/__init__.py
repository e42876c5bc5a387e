"""Sections on calibrate jobs: comparison of calibrators, OOD detection, prediction sets."""
