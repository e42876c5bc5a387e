"""The runs that a run rests on: those whose artifacts it read or whose checkpoint it resumed from, up to the first ones."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

_SHOWN = ("stage", "kind", "method", "density", "ipc", "seed", "status", "parent_key")


def ancestors(runs: pa.Table, run_key: str) -> pd.DataFrame:
    """Returns the run in the last row, and above it all runs that it rests on, every run below those that it rests on.

    Column `generation` is 0 for the run, 1 for what it read itself, and so on (the largest number of steps). A run of another
    folder has its key and nothing else, because only its own folder knows it.
    """
    # As objects, since an unknown run has no value in any column.
    table = runs.to_pandas().drop_duplicates("run_key", keep="last").set_index("run_key").astype(object)
    generations: dict[str, int] = {}
    newest = [run_key]
    # A lineage has no more generations than runs, unless damaged records make it a circle.
    for generation in range(len(table) + 1):
        generations |= dict.fromkeys(newest, generation)
        newest = list(dict.fromkeys(parent for key in newest for parent in _parents(table, key)))
    ordered = sorted(generations, key=lambda key: -generations[key])
    found = table.reindex(ordered)[list(_SHOWN)]
    found.insert(0, "generation", [generations[key] for key in ordered])
    shown: pd.DataFrame = found.rename_axis("run_key").reset_index()
    return shown


def _parents(table: pd.DataFrame, key: str) -> list[str]:
    parents = table["parent_key"].get(key)
    return parents.split(",") if isinstance(parents, str) else []
