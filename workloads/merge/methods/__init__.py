"""Plug-ins that merge finished runs, one per file."""
