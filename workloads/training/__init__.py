"""workloads/training."""
