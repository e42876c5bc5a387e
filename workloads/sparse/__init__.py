"""Sparse training: masks, how density is shared over layers, when and how masks move."""
