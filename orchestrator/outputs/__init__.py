"""Evaluates and calibrates outputs in memory or in files, at once and without a study."""
