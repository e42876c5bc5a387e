"""orchestrator/local_backend."""
