"""Plug-ins that rank features, one per file."""
