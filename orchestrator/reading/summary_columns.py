"""Chooses the columns of the summary."""

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.reading.metric_names import did_you_mean, recorded_measures
from pruneyard.reports.summary import cells, narrow

ALL = "all"


def summary_table(runs: pa.Table, metrics: pa.Table, columns: str | Sequence[str] | None) -> pd.DataFrame:
    """Returns the table of `cells` with some columns: the given ones, `all`, or those that a person reads first.

    A measure that the table does not show by itself, such as val/accuracy, is computed where it is asked for. Raises `UsageError`
    for a column that there is not.
    """
    table = cells(runs, metrics)
    if columns == ALL:
        return table
    if columns is None:
        return _with_columns(table, narrow(table))
    chosen = [columns] if isinstance(columns, str) else list(columns)
    recorded = recorded_measures(metrics)
    others = [measure for name in chosen if name not in table and (measure := _measure_of(name)) in recorded]
    if others:
        table = cells(runs, metrics, measures=[*table.attrs["measures"], *dict.fromkeys(others)])
    for name in chosen:
        if name not in table:
            hint = did_you_mean(name, [*table.columns, *recorded])
            raise UsageError(f"{name}: is no column of the summary{hint}; columns={ALL!r} shows every column")
    return _with_columns(table, chosen)


def _measure_of(column: str) -> str:
    """Returns the measure of a column, which may be an end of its interval."""
    return column.removesuffix("_low").removesuffix("_high")


def _with_columns(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Returns these columns; the table's `attrs` stay, which pandas does not promise."""
    chosen = table[list(columns)]
    chosen.attrs = table.attrs
    return chosen
