"""Forgets what a process has cached of plug-ins and source files, for tests that change them under one process."""

import sys
from pathlib import Path

from pruneyard.workloads import plugins
from pruneyard.workloads.user_code import source_code

__all__ = ["forget_code", "forget_modules_of"]


def forget_code() -> None:
    """Makes this process look for plug-ins, and read source files, anew."""
    for member in vars(plugins).values():
        if hasattr(member, "cache_clear"):
            member.cache_clear()
    source_code.forget_sources()


def forget_modules_of(folder: Path) -> None:
    """Removes the modules of files below a folder from `sys.modules`; torch cannot be imported a second time."""
    found = []
    for name, module in list(sys.modules.items()):
        spec = vars(module).get("__spec__")  # not by attribute: torch has modules that answer to any name
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec is not None else vars(module).get("__path__", [])
        if any(place and Path(place).is_relative_to(folder) for place in places):
            found.append(name)
    for name in found:  # only now: the places of a package without a file are computed from those of its parent
        del sys.modules[name]
