"""Forgets what a process has cached of plug-ins and source files, for tests that change them under one process."""

from pruneyard.workloads import plugins
from pruneyard.workloads.user_code import source_code

__all__ = ["forget_code"]


def forget_code() -> None:
    """Makes this process look for plug-ins, and read source files, anew."""
    for member in vars(plugins).values():
        if hasattr(member, "cache_clear"):
            member.cache_clear()
    source_code.forget_sources()
