"""orchestrator/remote."""
