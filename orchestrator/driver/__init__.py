"""orchestrator/driver."""
