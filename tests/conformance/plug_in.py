"""Builds the plug-ins of every family for their suites."""

import dataclasses
from importlib.util import find_spec
from typing import Any

import pytest

from pruneyard.orchestrator.spec.codec import decode
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.workloads.plugins import Settings, find, names
from pruneyard.workloads.user_code.families import FAMILIES

MEMBERS = [(family, name) for family in FAMILIES for name in names(family)]
REQUIRED: Settings = {"density": 0.3, "ipc": 2}
"""Values for fields that whole families leave without a default; other such fields are in a class's `examples`."""


def examples(family: str, name: str) -> tuple[Settings, ...]:
    """Returns the settings to test a plug-in with: its class attribute `examples`, or its defaults alone."""
    settings: tuple[Settings, ...] = getattr(find(family, name), "examples", ({},))
    return settings


def build(family: str, name: str, **fields: Any) -> Any:
    """Returns a plug-in with the settings of its first example, and with `fields` as far as it has them."""
    return build_with(family, name, examples(family, name)[0], **fields)


def build_with(family: str, name: str, settings: Settings, **fields: Any) -> Any:
    """Returns a plug-in with some of its settings, which are decoded as a spec's are, and with `fields` as far as it has them."""
    cls, log = find(family, name), ProblemLog()
    package = getattr(cls, "optional_package", None)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{family}.{name} needs the package {package}, which is not installed")
    field_names = {field.name for field in dataclasses.fields(cls)}
    required = {field.name for field in dataclasses.fields(cls) if _has_no_default(field)}
    table = {key: value for key, value in REQUIRED.items() if key in required} | dict(settings)
    plugin = decode(cls, table, "", log)
    problems = "; ".join(f"{problem.key} {problem.message}" for problem in log.problems)
    assert plugin is not None, f"{cls.__name__} with {table}: {problems}. Name settings to test in its class attribute `examples`"
    return dataclasses.replace(plugin, **{key: value for key, value in fields.items() if key in field_names})


def _has_no_default(field: "dataclasses.Field[Any]") -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
