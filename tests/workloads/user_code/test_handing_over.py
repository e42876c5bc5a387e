"""Objects that were handed over from Python get the same reference for the same code, and another one for changed code."""

import copy
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pruneyard.workloads.user_code import handed_over
from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.identity import digest_of, identity_name
from pruneyard.workloads.user_code.pickling import unpickle
from pruneyard.workloads.user_code.references import is_reference, resolve
from pruneyard.workloads.user_code.registration import register

CELL = """
import torch
from torch import nn

WIDTH = 4
TABLE = torch.ones(2)

def scale(x):
    return x * WIDTH

class Base(nn.Module):
    def forward(self, x):
        return scale(x) + TABLE.sum()

class Net(Base):
    depth: int = 1
    def extra(self):
        return [self.forward(x) for x in ()]
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handed_over, "HANDED_OVER", {})
    monkeypatch.setattr("pruneyard.workloads.user_code.registration.HANDED_OVER", handed_over.HANDED_OVER)


@pytest.fixture
def run_cell(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Runs code as a cell of a notebook does: in `__main__`, with its text known to `inspect`."""
    number = 0

    def run(text: str) -> dict[str, Any]:
        nonlocal number
        number += 1
        file = tmp_path / f"cell{number}.py"
        file.write_text(text)
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, str(file), "exec"), names)
        return names

    return run


def test_what_can_be_imported_is_named() -> None:
    assert register(nn.Linear) == "torch.nn.modules.linear:Linear"
    assert register(test_what_can_be_imported_is_named).endswith("test_handing_over:test_what_can_be_imported_is_named")


def test_a_class_of_a_notebook_has_a_reference_by_its_source(run_cell: Callable[[str], dict[str, Any]]) -> None:
    net = run_cell(CELL)["Net"]
    name = register(net)
    assert is_reference(name)
    assert resolve(name) is net
    assert (identity_name(name), digest_of(name)) == tuple(name.split("@"))
    assert register(run_cell(CELL + "\nUNRELATED = 1\n")["Net"]) == name
    copy.deepcopy(net())  # stores `__slotnames__` in the class
    assert register(net) == name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WIDTH = 4", "WIDTH = 5"),  # a global of a function that a method of a base calls
        ("x * WIDTH", "x + WIDTH"),
        ("torch.ones(2)", "torch.zeros(2)"),
        ("+ TABLE.sum()", "- TABLE.sum()"),
        ("depth: int = 1", "depth: int = 2"),
        ("depth: int", "depth: float"),
        ("class Net(Base)", "class Net(nn.Module)"),
    ],
)
def test_changed_code_has_another_reference(run_cell: Callable[[str], dict[str, Any]], old: str, new: str) -> None:
    assert register(run_cell(CELL)["Net"]) != register(run_cell(CELL.replace(old, new))["Net"])


def make(width: int) -> Callable[[], int]:
    def factory() -> int:
        return width

    return factory


def test_outer_variables_and_lambdas_are_told_apart() -> None:
    assert register(make(1)) == register(make(1)) != register(make(2))
    first, second = lambda: 1, lambda: 2
    assert register(first).startswith("lambda@")
    assert register(first) != register(second)


def test_the_same_objects_in_another_role_are_other_code(run_cell: Callable[[str], dict[str, Any]]) -> None:
    cell = """
def relu(x): return max(x, 0)
def tanh(x): return x / (1 + abs(x))
ACTIVATIONS = {"relu": relu, "tanh": tanh}
act = ACTIVATIONS["relu"]
def train(): return act(1), ACTIVATIONS
"""
    other = run_cell(cell.replace('act = ACTIVATIONS["relu"]', 'act = ACTIVATIONS["tanh"]'))
    assert register(run_cell(cell)["train"]) == register(run_cell(cell)["train"]) != register(other["train"])


def test_the_digest_of_a_set_of_constants_does_not_depend_on_the_process() -> None:
    code = "from pruneyard.workloads.user_code.registration import register\n"
    code += "print(register(lambda name: name in {'bias', 'norm', 'head'}))"
    names = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(names) == 1


def test_what_the_digest_does_not_cover_is_that_of_the_last_time() -> None:
    class Settings:
        def __init__(self, lr: float) -> None:
            self.lr = lr

    def make_train(settings: Settings) -> Callable[[], float]:
        return lambda: settings.lr

    first, second = register(make_train(Settings(1.0))), register(make_train(Settings(2.0)))
    assert first == second
    assert resolve(second)() == 2.0


def test_without_source_text_the_bytecode_counts() -> None:
    def defined(text: str) -> Any:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(text, names)
        return names["f"]

    assert register(defined("def f(x): return x + 1")) == register(defined("def f(x):\n    return x + 1"))
    assert register(defined("def f(x): return x + 1")) != register(defined("def f(x): return x + 2"))


def test_content_that_no_digest_covers_is_said(caplog: pytest.LogCaptureFixture) -> None:
    table = {"a": [1, 2.0, "x", (None, {3})], "part": partial(make, 3), "log": logging.getLogger("x")}

    def f() -> object:
        return table

    register(f)
    assert caplog.messages == []

    class Odd:
        pass

    odd = Odd()

    def g() -> object:
        return odd

    register(g)
    assert caplog.messages == ["the run key does not cover the content of odd, a Odd that g uses"]


def test_what_cannot_be_sent_is_refused() -> None:
    lock, large = threading.Lock(), bytes(101 * 2**20)
    with pytest.raises(UserCodeError, match=r"<lambda> cannot be sent to worker processes: TypeError: cannot pickle"):
        register(lambda: lock)
    with pytest.raises(UserCodeError, match=r"<lambda> and what it refers to take 101 MiB; at most 100 are allowed"):
        register(lambda: large)
    with pytest.raises(UserCodeError, match=r"3 is a int; a class or a function must be given"):
        register(3)


def test_a_copy_in_another_process_does_the_same() -> None:
    name = register(make(7))
    assert unpickle(handed_over.HANDED_OVER[name].pickled)() == 7
