"""orchestrator/spec."""
