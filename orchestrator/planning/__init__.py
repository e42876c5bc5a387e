"""orchestrator/planning."""
