"""Masks and how density is distributed over layers."""
