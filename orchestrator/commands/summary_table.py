"""Prints the summary of a results folder as a table for a terminal, with the columns that fit its width."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pruneyard.orchestrator.planning.finished import Column
from pruneyard.reports.formats import amount, duration, estimate
from pruneyard.reports.naming import column_names

if TYPE_CHECKING:  # a summary that is printed again needs no pandas
    import pandas as pd

SHOWN = {
    "test/accuracy": "accuracy",
    "test/robust_accuracy": "robust",
    "test/nll": "nll",
    "test/ece": "ece",
    "ood/auroc": "auroc",
    "ood/fpr95": "fpr95",
}


# Columns left out first on a narrow terminal; settings from the last one on follow, then the labels except the method.
DROPPED_FIRST = ("training", "active", "fpr95", "nll", "ece", "auroc", "robust")
KEPT = ("method", "density", "seeds", "accuracy")
MAX_ROWS = 60
LONGEST_CELL = 30
GAP = 2  # spaces after each column


def table_of(columns: Sequence[Column], *, num_rows: int, width: int, elsewhere: str) -> RenderableType:
    """Returns the table of those columns that fit into `width` characters.

    The others are named below it, together with `elsewhere`, where all are; so are rows beyond the cells, of `num_rows`.
    """
    shown, left_out = fitting(columns, width=width)
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="bold")
    for column in shown:
        table.add_column(column.name, justify="left" if column.left else "right", no_wrap=True)
    for row in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*(Text(cell) for cell in row))
    num_more = num_rows - len(columns[0].cells)
    notes = [f"and {num_more} more row{'s' if num_more > 1 else ''}"] if num_more else []
    if left_out:
        notes.append(f"left out for the width of this terminal: {', '.join(left_out)}")
    if notes:
        notes.append(f"all of it: {elsewhere}")
    return Group(table, *(Text(note, style="dim") for note in notes))


def width_of(column: Column) -> int:
    """Returns the width of a column and the gap after it, in characters."""
    return max(len(text) for text in (column.name, *column.cells)) + GAP


def fitting(columns: Sequence[Column], *, width: int) -> tuple[list[Column], list[str]]:
    """Returns the columns that fit, and the names of those left out, the least important first."""
    names = [column.name for column in columns]
    others = [name for name in reversed(names) if name not in (*DROPPED_FIRST, *KEPT)]
    droppable = [*(name for name in DROPPED_FIRST if name in names), *others]
    kept, left_out = list(columns), []
    while droppable and sum(map(width_of, kept)) > width:
        left_out.append(droppable.pop(0))
        kept = [column for column in kept if column.name != left_out[-1]]
    return kept, left_out


def columns_of(summary: "pd.DataFrame") -> list[Column]:
    """Returns the columns of a summary: settings, seeds, and `mean ± half of the 95% interval`.

    The metrics are the usual ones on test; in a study without any of them, all that it has. Finished jobs without any of these,
    such as probes among trainings, have no row, and no more than the first `MAX_ROWS` have one.
    """
    measured = [name.removesuffix("_low") for name in summary.columns if name.endswith("_low")]
    measures = {measure: name for measure, name in SHOWN.items() if measure in summary} or {name: name for name in measured}
    shown = _with_values(summary, list(measures)).head(MAX_ROWS)
    settings = summary.attrs.get("settings", [])
    if summary["stage"].nunique(dropna=False) > 1:
        settings = [name for name in settings if _differs_within_a_stage(summary, name)]
    labels = [name for name in ("stage", "data", "model", "method", "density", "ipc") if _tells(shown, name)]
    short = column_names(settings, taken=(*DROPPED_FIRST, *KEPT, *labels))
    rows = [row for _, row in shown.iterrows()]
    columns = [Column(name=n, cells=_cells(shown[n]), left=n in {"stage", "data", "model", "method"}) for n in labels]
    columns += [Column(name=short[name], cells=_cells(shown[name])) for name in settings]
    columns.append(Column(name="seeds", cells=[_seeds(row) for row in rows]))
    for measure, name in measures.items():
        columns.append(Column(name=name, cells=[_interval(row, measure) for row in rows]))
    if shown["num_active"].notna().any():
        columns.append(Column(name="active", cells=[_active(row) for row in rows]))
    return [*columns, Column(name="training", cells=[duration(row["train_s"]) for row in rows])]


def _with_values(summary: "pd.DataFrame", measures: Sequence[str]) -> "pd.DataFrame":
    """Returns the rows with a value of a measure, or of which no seed is finished; all rows if there are none."""
    rows = summary[summary[list(measures)].notna().any(axis=1) | summary["num_seeds"].eq(0)]
    return rows if len(rows) else summary


def _tells(summary: "pd.DataFrame", name: str) -> bool:
    """Returns whether a column is shown: method and density where the kind of job has them, others where their values differ."""
    if name in {"method", "density"}:
        return bool((summary[name].notna() & summary[name].ne("")).any())
    return _differs_within_a_stage(summary, name) if name in {"data", "model"} else summary[name].nunique(dropna=False) > 1


def _differs_within_a_stage(summary: "pd.DataFrame", name: str) -> bool:
    """Returns whether a setting or a label needs a column; what differs only between stages is implied by their names."""
    return bool((summary.groupby("stage", dropna=False)[name].nunique(dropna=False) > 1).any())


def _cells(values: Iterable[object]) -> list[str]:
    texts = [_plain(value) for value in values]
    return [text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…" for text in texts]


def _plain(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds(row: "pd.Series") -> str:
    notes = [f"{row[name]} {name}" for name in ("failed", "interrupted", "censored") if row[name]]
    return ", ".join([str(row["num_seeds"]), *notes])


def _active(row: "pd.Series") -> str:
    return "-" if _is_of_another_kind(row, "num_active") else amount(row["num_active"])


def _is_of_another_kind(row: "pd.Series", name: str) -> bool:
    """Returns whether finished jobs of this row have no such number."""
    return bool(row["num_seeds"]) and math.isnan(row[name])


def _interval(row: "pd.Series", measure: str) -> str:
    if _is_of_another_kind(row, measure):
        return "-"
    mean, half = estimate(row[measure], row[f"{measure}_low"], row[f"{measure}_high"])
    return f"{mean} ± {half}" if half else mean
