"""The costs of reaching a target value per run: epochs, steps, training time and FLOPs."""

from __future__ import annotations

import math

import pandas as pd
import pyarrow as pa

from pruneyard.reports.cells import LABELS, label_cells
from pruneyard.reports.records import Status
from pruneyard.reports.summary import history

_COSTS = ("epochs", "steps", "train_s", "train_flops")
_FLOPS = "train/flops"
"""Counted FLOPs of all steps so far, recorded at evaluations."""


def to_target(
    runs: pa.Table, metrics: pa.Table, *, target: float, measure: str = "val/accuracy", rises: bool = True
) -> pd.DataFrame:
    """Returns one row per completed run: `cell`, labels, settings that differ, `seed`, `best`, and the costs up to the target.

    A run reaches the target at its first evaluation whose value is at least it (at most, if the measure should
    fall). Between evaluations nothing is known, so evaluate often. A run that never reaches it has NaN costs,
    and a mean over seeds that skips it would flatter. `train_flops` is the metric `train/flops` at that step,
    NaN where it was not recorded: while the density moves it is no share of the total. `best` is the best value.
    """
    labelled = label_cells(runs)
    settings: list[str] = labelled.attrs["settings"]
    completed = labelled[labelled["status"] == Status.COMPLETED]
    points = history(metrics)
    rows = [
        _row(points[points["run_key"] == key], target=target, measure=measure, rises=rises)
        for key in completed["run_key"]
    ]
    found = pd.DataFrame(rows, columns=["best", *_COSTS], index=completed.index, dtype="float64")
    shown = completed[["cell", *LABELS, *settings, "seed"]]
    return (
        pd.concat([shown, found], axis=1).sort_values(["cell", "seed"], kind="stable").reset_index(drop=True)
    )


def _row(points: pd.DataFrame, *, target: float, measure: str, rises: bool) -> dict[str, float]:
    """Returns the costs of one run from all its metric rows."""
    measured = points[points["measure"] == measure].sort_values("step", kind="stable")
    if measured.empty:
        return {}
    values = measured["value"]
    best = {"best": float(values.max() if rises else values.min())}
    reached = measured[values >= target if rises else values <= target]
    if reached.empty:
        return best
    epochs, steps, train_s = (float(reached[name].iloc[0]) for name in ("epoch", "step", "wall_s"))
    counted = points.loc[(points["measure"] == _FLOPS) & (points["step"] == steps), "value"]
    flops = float(counted.iloc[0]) if len(counted) else math.nan
    return best | {"epochs": epochs, "steps": steps, "train_s": train_s, "train_flops": flops}
