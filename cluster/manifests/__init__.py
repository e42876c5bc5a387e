"""Manifests of clusters: one profile rendered for each system that starts Ray."""
