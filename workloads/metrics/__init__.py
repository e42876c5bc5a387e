"""Metrics on logits and labels: calibration errors, proper scores, detection, selective prediction."""
