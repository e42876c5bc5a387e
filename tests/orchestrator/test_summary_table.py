"""The table at the end of a run: one line per row at every width, with a note on omitted columns."""

import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from pruneyard.orchestrator.commands.summary_table import columns_of, table_of
from pruneyard.orchestrator.driver.run import run

SPEC: dict[str, Any] = {
    "name": "wide",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "budget": {"steps": 2, "batch_size": 16},
    "seeds": 2,
    "grid": {
        "method": [{"name": "rigl"}],
        "method.density": [0.5],
        "optimizer.lr": [0.1, 0.03],
        "optimizer.momentum": [0.8],
        "model": ["mlp", {"name": "mlp", "width": 16}],
        "objective.label_smoothing": [0.0, 0.1],
        "gradient": ["plain", "agent"],
    },
}

Printed = Callable[[int], list[str]]


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Returns a summary of many rows that differ in many settings."""
    return run(SPEC, tmp_path_factory.mktemp("wide") / "out", local=True).summary(columns="all")


@pytest.fixture
def printed(summary: pd.DataFrame) -> Printed:
    def lines(width: int) -> list[str]:
        console = Console(file=io.StringIO(), width=width)
        console.print(table_of(columns_of(summary), num_rows=len(summary), width=width, elsewhere="pruneyard export out"))
        return console.file.getvalue().splitlines()  # type: ignore[attr-defined]

    return lines


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_every_row_is_one_whole_line(printed: Printed, summary: pd.DataFrame, width: int) -> None:
    lines = printed(width)
    rows = [line for line in lines if line.startswith("rigl")]
    assert len(rows) == len(summary)
    assert all(" ± " in row or "n/a" in row for row in rows)
    assert not any("…" in row for row in rows)
    assert all(len(line) <= width for line in lines)
    for name in ("method", "density", "seeds", "accuracy"):
        assert name in lines[0]


def test_a_narrow_terminal_omits_the_least_important_columns_and_names_them(printed: Printed) -> None:
    wide, narrow = printed(200), printed(80)
    assert not any("left out" in line for line in wide)
    assert all(name in wide[0] for name in ("lr", "label_smoothing", " gradient ", "ece", "active", "training"))
    assert "training" not in narrow[0]
    said = " ".join(narrow)
    assert "left out for the width of this terminal: training, active, nll" in said
    assert "all of it: pruneyard export out" in said


def test_a_kind_without_method_and_density_has_no_columns_for_them(summary: pd.DataFrame) -> None:
    without = summary.assign(method="", density=float("nan"))
    without.attrs = summary.attrs
    assert {"method", "density"} <= {column.name for column in columns_of(summary)}
    assert not {"method", "density"} & {column.name for column in columns_of(without)}


def test_a_long_cell_is_cut(summary: pd.DataFrame) -> None:
    long = summary.assign(method="a" * 50)
    long.attrs = summary.attrs
    console = Console(file=io.StringIO(), width=80)
    console.print(table_of(columns_of(long), num_rows=len(long), width=80, elsewhere="there"))
    assert "a" * 29 + "…" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_chain_has_rows_for_what_its_columns_show_and_counts_the_others() -> None:
    rows = [("train", "digits", "rigl", 0.9, float("nan")), ("trust", "digits", "temperature", 0.9, 0.8)]
    rows += [("distilled", "synthetic", "rigl", 0.7, float("nan")), ("shift", "digits", "shift", float("nan"), float("nan"))]
    chain = pd.DataFrame(rows, columns=["stage", "data", "method", "test/accuracy", "ood/auroc"])
    for measure in ("test/accuracy", "ood/auroc"):
        chain = chain.assign(**{f"{measure}_low": float("nan"), f"{measure}_high": float("nan")})
    empty = {"model": "mlp", "density": 0.1, "ipc": None, "num_active": float("nan"), "train_s": 1.0}
    chain = chain.assign(num_seeds=1, failed=0, interrupted=0, censored=0, **empty)
    columns = {column.name: column.cells for column in columns_of(chain)}
    assert columns["stage"] == ["train", "trust", "distilled"]
    assert columns["auroc"] == ["-", "0.8000", "-"]
    assert "data" not in columns, "the stage tells the data"
    console = Console(file=io.StringIO(), width=100)
    console.print(table_of(columns_of(chain), num_rows=len(chain), width=100, elsewhere="the report"))
    assert "and 1 more row\nall of it: the report" in console.file.getvalue()  # type: ignore[attr-defined]
