"""Dataset distillation: small synthetic sets, made or chosen from a real one, and what networks trained on them are worth."""
