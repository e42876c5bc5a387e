"""Finds the specs and templates that ship with the package; imports nothing that is slow to load."""

from importlib.resources import files

SUFFIX = ".yaml"
NETWORK_TEMPLATE = "network"
"""The template that is filled in with a network of the user's own; it is no starting point by itself."""


def packaged_specs() -> list[str]:
    """Returns the names of the specs that ship with the package."""
    folder = files("pruneyard.orchestrator.specs")
    return sorted(entry.name.removesuffix(SUFFIX) for entry in folder.iterdir() if entry.name.endswith(SUFFIX))


def packaged_text(name: str) -> str:
    """Returns the text of a packaged spec."""
    return files("pruneyard.orchestrator.specs").joinpath(f"{name}{SUFFIX}").read_text(encoding="utf-8")


def template_names() -> list[str]:
    """Returns the names of the templates that `pruneyard init` writes as they are."""
    found = (entry.name for entry in files("pruneyard.orchestrator.templates").iterdir() if entry.name.endswith(SUFFIX))
    return sorted(name.removesuffix(SUFFIX) for name in found if name != f"{NETWORK_TEMPLATE}{SUFFIX}")


def template_file(name: str) -> str:
    """Returns the text of a template, or of a file that goes with one."""
    return files("pruneyard.orchestrator.templates").joinpath(name).read_text(encoding="utf-8")
