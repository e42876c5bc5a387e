"""The examples in the docstrings of the public module run as written, on one small study that the example of `run` makes."""

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pruneyard

FIRST = "run"  # its example writes out/digits, which the others read


def public_objects() -> Iterator[tuple[str, Any]]:
    """Yields every public function and class, and every public method and property of the classes, by name."""
    for name in sorted(pruneyard.__all__, key=lambda name: name != FIRST):
        found = getattr(pruneyard, name)
        yield name, found
        if inspect.isclass(found):
            for member, value in vars(found).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


OBJECTS = dict(public_objects())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which the first example has run."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_example(FIRST)
    return folder


def run_example(name: str) -> None:
    """Runs the examples of a docstring; fails where one prints something else, and where there is none."""
    (test,) = doctest.DocTestFinder(recurse=False).find(OBJECTS[name], name, globs={"pruneyard": pruneyard})
    assert test.examples, f"the docstring of pruneyard.{name} has no example"
    said: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("name", [name for name in OBJECTS if name != FIRST])
def test_the_example_of_a_public_name_runs_as_written(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run_example(name)
