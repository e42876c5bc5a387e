"""The view `results/final`: one row per run with its last values as columns, for pandas, DuckDB, Polars and spreadsheets.

It is derived from `runs` and `metrics`, written again whenever these are compacted, and read by nothing in pruneyard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from pruneyard.reports import records
from pruneyard.reports.cells import label_cells
from pruneyard.reports.durable import write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.parquet import encode_table
from pruneyard.reports.summary import history, last_values


def final_table(runs: pa.Table, metrics: pa.Table) -> pa.Table:
    """Returns one row per run: the columns of `runs` with their types, the settings in which runs differ, and `split/name`.

    runs: the newest attempt of every run. A measure is the value of its last step, as a double, null where the run has none; a
    setting has its dotted key, and is boolean or double where all its values are, else text.
    """
    kept = [name for name in runs.column_names if name not in records.LEFT_OUT_OF_FINAL]
    table = runs.select(kept)
    keys = table.column("run_key").to_pylist()
    labelled = label_cells(runs, every_run=True).set_index("run_key").reindex(keys)
    for name in labelled.attrs["settings"]:
        if name not in kept:
            table = table.append_column(name, _typed(labelled[name].tolist()))
    finals = last_values(history(metrics)).pivot(index="run_key", columns="measure", values="value").reindex(keys)
    for name in finals.columns:
        table = table.append_column(str(name), pa.array(finals[name].to_numpy(), pa.float64(), from_pandas=True))
    return table


def _typed(values: Sequence[Any]) -> pa.Array:
    """Returns the values as booleans or doubles if all are, else as texts; missing ones are null."""
    known = [None if value is None or pd.isna(value) else value for value in values]
    present = [value for value in known if value is not None]
    if all(isinstance(value, bool) for value in present):
        return pa.array(known, pa.bool_())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        return pa.array([None if value is None else float(value) for value in known], pa.float64())
    return pa.array([None if value is None else str(value) for value in known], pa.string())


def write_final_table(folder: RunFolder, runs: pa.Table, metrics: pa.Table) -> None:
    """Replaces the view of the folder, which is one file."""
    if runs.num_rows:
        write_durably(folder.table("final") / "final.parquet", encode_table(final_table(runs, metrics), compression="zstd"))
