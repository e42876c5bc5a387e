"""Outputs of networks that were trained elsewhere: files of logits or probabilities with labels, and arrays in memory."""
