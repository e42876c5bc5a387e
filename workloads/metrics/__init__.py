"""workloads/metrics."""
