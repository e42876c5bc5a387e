"""Follows running trials and displays them."""
