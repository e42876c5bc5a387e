"""orchestrator/progress."""
