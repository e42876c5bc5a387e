"""Losses that several objectives share: on logits, on mixed batches, on adversarial inputs."""
