"""orchestrator/coordination."""
