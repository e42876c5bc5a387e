"""Reads the options `--set`, `--axis` and `--plugin`, which change a spec on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from pruneyard.orchestrator.spec.overrides import parse_assignment, parse_axis


def spec_changes(sets: Sequence[str], axes: Sequence[str], plugins: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Returns the keyword arguments of `load_spec` for the options `--set`, `--axis` and `--plugin`."""
    overrides = dict(parse_assignment(text, option="--set") for text in sets)
    return {
        "overrides": overrides | ({"plugins": list(plugins)} if plugins else {}),
        "axes": dict(parse_axis(text) for text in axes),
    }
