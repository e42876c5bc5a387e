"""Runs a study on Ray: Tune schedules trials, Train provides the workers of a distributed trial."""
