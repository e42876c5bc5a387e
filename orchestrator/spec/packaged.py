"""Finds the specs that ship with the package; imports nothing that is slow to load."""

from importlib.resources import files

SUFFIX = ".yaml"


def packaged_specs() -> list[str]:
    """Returns the names of the specs that ship with the package."""
    folder = files("pruneyard.orchestrator.specs")
    return sorted(entry.name.removesuffix(SUFFIX) for entry in folder.iterdir() if entry.name.endswith(SUFFIX))


def packaged_text(name: str) -> str:
    """Returns the text of a packaged spec."""
    return files("pruneyard.orchestrator.specs").joinpath(f"{name}{SUFFIX}").read_text(encoding="utf-8")
