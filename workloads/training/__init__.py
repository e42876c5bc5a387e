"""The training loop and its parts: step, evaluation, resume, masks, weight averaging."""
