"""Rules that every plug-in of every family must keep. Members are found by their files."""

import dataclasses
import importlib
import math
import pickle
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest

from pruneyard.orchestrator.spec.codec import decode, encode, hints_of
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.testing.plug_in import MEMBERS, build, build_with, examples
from pruneyard.testing.samples import sample_files
from pruneyard.workloads.plugins import describe, find

pytestmark = pytest.mark.parametrize(("family", "name"), MEMBERS)


@pytest.fixture(scope="module", autouse=True)
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with sample_files(tmp_path_factory.mktemp("cache")):
        yield


def test_is_one_frozen_dataclass_that_says_what_it_does(family: str, name: str) -> None:
    """Its fields are keyword-only, its file has a summary of one line and a reference."""
    cls, plugin = find(family, name), build(family, name)
    module = importlib.import_module(cls.__module__)
    assert module.__all__ == [cls.__name__], "`__all__` must hold the name of the plug-in's class alone"
    assert cls.__module__.rpartition(".")[2] == name
    assert dataclasses.is_dataclass(cls)
    assert all(field.kw_only for field in dataclasses.fields(cls)), "the dataclass must have `kw_only=True`"
    with pytest.raises(dataclasses.FrozenInstanceError):
        plugin.extra = 1
    (description,) = [description for description in describe(family) if description.name == name]
    assert description.family == family
    assert description.summary.endswith("."), "the first line of the module's docstring must be a sentence"
    length = len(description.summary)
    assert 10 < length <= 110, f"the first line of the module's docstring has {length} characters; 11 to 110 are allowed"
    assert description.reference, "the module's docstring must have a line that starts with `Reference:`"


def test_equal_settings_are_equal_and_survive_pickling_and_a_spec_table(family: str, name: str) -> None:
    for settings in examples(family, name):
        plugin, log = build_with(family, name, settings), ProblemLog()
        assert plugin == build_with(family, name, settings)
        assert pickle.loads(pickle.dumps(plugin)) == plugin
        assert decode(type(plugin), encode(plugin), "", log) == plugin, log.problems


def test_refuses_bad_values_with_a_message_that_names_the_field(family: str, name: str) -> None:
    """No number raises anything but a `ValueError` that begins with a field's name, which the decoder shows; NaN always does."""
    plugin = build(family, name)
    hints = hints_of(type(plugin))
    for field, hint in hints.items():
        for value in bad_numbers(hint):
            message = refusal(plugin, field, value)
            named = re.match(r"(\w+)(\[\d+\])?\s", message or field + " ")
            assert named is not None, f"{field}={value}: {message}"
            assert named[1] in hints, f"{field}={value}: {message}"
            assert message is not None or not math.isnan(value), f"{field}={value} must be refused"


def bad_numbers(hint: Any) -> list[float]:
    """Returns numbers that few fields of this type may have; none for a field that is no number."""
    kinds = set(get_args(hint) or (hint,)) - {type(None)}
    if get_origin(hint) is tuple or not kinds or not kinds <= {int, float}:
        return []
    return [-1e30, -1.0, math.inf, math.nan] if float in kinds else [-(10**9), -1, 0]


def refusal(plugin: Any, field: str, value: float) -> str | None:
    """Returns the message with which a value is refused, or None where it is taken."""
    try:
        dataclasses.replace(plugin, **{field: value})
    except ValueError as error:
        return str(error)
    return None
