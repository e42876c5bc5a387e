"""orchestrator/execution."""
