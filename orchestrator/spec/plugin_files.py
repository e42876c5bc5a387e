"""Files of plug-ins that a spec names under `plugins`: they are added before the spec is validated."""

from collections.abc import Mapping
from typing import Any

from pruneyard.orchestrator.errors import Problem, SpecError
from pruneyard.orchestrator.spec.codec import short_json
from pruneyard.orchestrator.spec.yaml_document import Document, read_document
from pruneyard.reports.location import Location
from pruneyard.workloads.plugins import add_file
from pruneyard.workloads.user_code.errors import UserCodeError

PLUGINS = "plugins"
"""The key of a spec; next to `stages` where there are any."""
_FORM = "it must be a path that ends in .py, or {file: PATH, family: FAMILY}"

SCHEMA: dict[str, Any] = {
    "type": "array",
    "description": "files of plug-ins; their names without .py can be used in this spec",
    "items": {
        "oneOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"file": {"type": "string"}, "family": {"type": "string"}},
                "required": ["file"],
                "additionalProperties": False,
            },
        ]
    },
}


def add_plugin_files(document: Document, added: Any) -> list[Any]:
    """Adds the plug-ins of a spec's files to this process; returns them as they are written in a spec, each once.

    added: files that the command line or the caller adds to those of the spec. Raises `SpecError` with every problem.
    """
    problems, found = [], []
    for given, lines, origin in (
        (document.tables.get(PLUGINS, []), document.lines, ""),
        (added, dict[str, int](), " (from the command line)"),
    ):
        if not isinstance(given, list):
            wrong = f"is {short_json(given)}; it must be a list of files{origin}"
            problems.append(Problem(lines.get(PLUGINS, 0), PLUGINS, wrong))
            continue
        for place, item in enumerate(given):
            key = f"{PLUGINS}[{place}]"
            try:
                _add(item)
            except UserCodeError as error:
                problems.append(Problem(lines.get(key, 0), key, f"{error}{origin}"))
            if item not in found:
                found.append(item)
    if problems:
        raise SpecError(document.origin, problems)
    return found


def add_plugin_files_of(spec: Location) -> None:
    """Adds the plug-ins that a results folder's `spec.yaml` names, if it exists."""
    if spec.is_file():
        add_plugin_files(read_document(spec), [])


def without_plugin_files(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns tables without that key."""
    return {key: value for key, value in tables.items() if key != PLUGINS}


def _add(item: Any) -> None:
    if isinstance(item, str) and item.endswith(".py"):
        add_file(item)
    elif isinstance(item, Mapping) and set(item) <= {"file", "family"} and str(item.get("file")).endswith(".py"):
        family = item.get("family")
        add_file(str(item["file"]), None if family is None else str(family))
    else:
        raise UserCodeError(f"is {short_json(item)}; {_FORM}")
