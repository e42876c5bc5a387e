"""orchestrator/artifacts."""
