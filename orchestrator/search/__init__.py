"""orchestrator/search."""
