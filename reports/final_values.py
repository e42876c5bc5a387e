"""The final values of every run: one row per run, with the last value of each metric."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from pruneyard.reports.cells import LABELS, label_cells
from pruneyard.reports.summary import history, last_values

_IDENTITY = ("run_key", "stage", "kind", "status", "seed", *LABELS)
_COSTS = ("num_parameters", "num_active", "train_flops", "train_s", "wall_s")


def final_values(runs: pa.Table, metrics: pa.Table) -> pd.DataFrame:
    """Returns one row per run: what it is, the settings in which runs differ, its costs, and a column per `split/name`.

    Each metric has the value of its last step. A run that ended early has the last values that it recorded; NaN where it
    recorded none. `frame.attrs` lists the `measures` and the `settings`.
    """
    labelled = label_cells(runs, every_run=True)
    settings: list[str] = labelled.attrs["settings"]
    table = labelled[[*_IDENTITY, *settings, *_COSTS]]
    finals = last_values(history(metrics))
    values = finals.pivot(index="run_key", columns="measure", values="value")
    merged = table.merge(values, left_on="run_key", right_index=True, how="left").reset_index(drop=True)
    merged.attrs = {"measures": list(values.columns), "settings": settings}
    return merged
