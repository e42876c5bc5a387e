"""Drives one call of `run`, stage by stage, from a plan to finished runs."""
