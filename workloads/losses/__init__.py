"""workloads/losses."""
