"""Values of Python in specs, overrides and spaces: what becomes plain data, and what is refused."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruneyard import sweep
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.yaml_document import plain
from pruneyard.testing.cases import each_case


@each_case(
    ("value", "expected"),
    [
        (range(1, 3), [1, 2]),
        (np.array([0.5]), [0.5]),
        (np.array(2), 2),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (frozenset({"a"}), ["a"]),
        (date(2024, 1, 2), "2024-01-02"),
        ((Path("a"), None, np.bool_(True)), ["a", None, True]),
    ],
)
def test_values_of_python_become_plain_ones(value: Any, expected: Any) -> None:
    found = plain(value)
    assert (found, repr(found)) == (expected, repr(expected))


@each_case("value", [object(), Decimal("0.1"), b"text", 1j, np.longdouble(1), np.zeros((2, 2)), torch.zeros(1, 2)])
def test_other_values_are_refused_with_their_key_and_type(value: Any) -> None:
    words = f"is a {type(value).__name__}( of 2 axes)?; it must be a number, text,"
    with pytest.raises(UsageError, match=rf"^model\.width: {words}"):
        load_spec("quickstart", overrides={"model.width": value})
    with pytest.raises(UsageError, match=rf"^model\.width\[1\]: {words}"):
        load_spec("quickstart", axes={"model.width": [1, value]})
    with pytest.raises(UsageError, match=rf"^budget\.epochs: {words}"):
        load_spec({"name": "x", "budget": {"epochs": value}})
    with pytest.raises(UsageError, match=rf"^space\.lr: {words}"):
        sweep("train.py:train", {"lr": value}, local=True)


def rate(lr: float) -> dict[str, float]:
    return {"rate": float(lr)}


@each_case("values", [range(2), np.arange(2), torch.arange(2), (0, 1)])
def test_a_sweep_runs_every_value_of_a_range_array_or_tensor(values: Any, tmp_path: Path) -> None:
    results = sweep(rate, {"lr": values}, out=tmp_path / type(values).__name__, local=True)
    assert sorted(results.summary()["arguments.lr"]) == [0, 1]
