"""What every plug-in of every family is held to."""

import dataclasses

import pytest

from pruneyard.workloads.plugins import describe


def assert_is_a_frozen_dataclass_that_says_what_it_does(plugin: object, family: str, name: str) -> None:
    """It takes no other field, and its file has a summary of one line and a reference."""
    assert dataclasses.is_dataclass(plugin)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plugin.extra = 1  # type: ignore[attr-defined]
    about = next(text for text in describe(family) if text.name == name)
    assert about.summary.endswith(".")
    assert len(about.summary) <= 110
    assert about.reference
