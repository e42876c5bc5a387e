"""What it took every run to reach a value: epochs, steps, training time and FLOPs side by side."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from reports.cells import LABELS, label_cells
from reports.records import Status
from reports.summary import history

_COSTS = ("epochs", "steps", "train_s", "train_flops")


def to_target(
    runs: pa.Table, metrics: pa.Table, *, target: float, measure: str = "val/accuracy", rises: bool = True
) -> pd.DataFrame:
    """One row per completed run: `cell`, labels, settings that differ, `seed`, `best`, and the costs up to the target.

    A run reaches the target at its first evaluation whose value is at least it (at most, if the measure should fall).
    Between evaluations nothing is known, so evaluate often. A run that never reaches it has NaN costs, and a mean over
    seeds that skips it would flatter. `train_flops` is the run's total times its share of steps. `best` is the best value.
    """
    labelled = label_cells(runs)
    settings: list[str] = labelled.attrs["settings"]
    completed = labelled[labelled["status"] == Status.COMPLETED]
    points = history(metrics)
    points = points[points["measure"] == measure].sort_values("step", kind="stable")
    totals = completed["train_flops"].astype("float64")
    rows = [
        _row(points[points["run_key"] == key], target=target, rises=rises, train_flops=total)
        for key, total in zip(completed["run_key"], totals, strict=True)
    ]
    found = pd.DataFrame(rows, columns=["best", *_COSTS], index=completed.index, dtype="float64")
    shown = completed[["cell", *LABELS, *settings, "seed"]]
    return (
        pd.concat([shown, found], axis=1).sort_values(["cell", "seed"], kind="stable").reset_index(drop=True)
    )


def _row(points: pd.DataFrame, *, target: float, rises: bool, train_flops: float) -> dict[str, float]:
    """The costs of one run, from its evaluations in order and its total."""
    if points.empty:
        return {}
    values = points["value"]
    best = {"best": float(values.max() if rises else values.min())}
    reached = points[values >= target if rises else values <= target]
    if reached.empty:
        return best
    epochs, steps, train_s = (float(reached[name].iloc[0]) for name in ("epoch", "step", "wall_s"))
    share = steps / float(points["step"].iloc[-1])
    return best | {"epochs": epochs, "steps": steps, "train_s": train_s, "train_flops": train_flops * share}
