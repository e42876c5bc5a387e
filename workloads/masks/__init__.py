"""workloads/masks."""
