"""orchestrator/early_stopping."""
