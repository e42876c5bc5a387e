"""Computes what a run has spent when it reaches a target value: epochs, steps, training time and FLOPs."""

from __future__ import annotations

import pandas as pd

COSTS = {"steps": "step", "epochs": "epoch", "time": "wall_s", "flops": "train/flops"}
"""What is spent, and the column of `metrics`, or the metric of the same step, that counts it."""


def with_cost(history: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Returns the evaluations with a column `cost`: what the run had spent by then, one of `COSTS`.

    history: as `summary.history` returns it. Evaluations whose cost was not recorded are left out: FLOPs are no share of the
    run's total, since the density may move.
    """
    column = COSTS[cost]
    if "/" in column:
        counted = history.loc[history["measure"] == column, ["run_key", "step", "value"]]
        return history.merge(counted.rename(columns={"value": "cost"}), on=["run_key", "step"]).dropna(subset=["cost"])
    return history.assign(cost=history[column]).dropna(subset=["cost"])


def up_to_target(points: pd.DataFrame, target: float | pd.Series[float], *, rises: bool) -> pd.DataFrame:
    """Returns the `cost` of every run up to the target and whether it `reached` it, indexed by run key.

    points: evaluations of one measure, from `with_cost`. target: one for all, or one for each evaluation. rises: whether the
    measure should.

    A run reaches the target at its first evaluation whose value is at least it (at most, if the measure should fall). Between
    evaluations nothing is known, so evaluate often. The cost of a run that never does is that of its last evaluation: it is a
    lower bound, and a mean over seeds that left the run out would flatter.
    """
    is_there = points["value"] >= target if rises else points["value"] <= target
    points = points.assign(reached=is_there).sort_values(["run_key", "step"], kind="stable")
    reached = points[points["reached"]].drop_duplicates("run_key")
    others = points[~points["run_key"].isin(reached["run_key"])].drop_duplicates("run_key", keep="last")
    found: pd.DataFrame = pd.concat([reached, others]).set_index("run_key")[["cost", "reached"]]
    return found.astype({"cost": "float64"}).sort_index()
