"""Epochs, steps, time and FLOPs up to a target value, with runs that never reach it as censored observations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from pruneyard.reports.baselines import natural_baseline
from pruneyard.reports.glossary import larger_is_better
from pruneyard.reports.paired import matched_cells
from pruneyard.reports.records import Status
from pruneyard.reports.statistics.reaching import ShareReached, share_reached
from pruneyard.reports.study import Study
from pruneyard.reports.targets import COSTS, up_to_target, with_cost

_SHARE = 0.5


def natural_targets(study: Study, measure: str) -> dict[int, float]:
    """Returns the target of every setting: the mean final value of the setting of the natural baseline that it is compared with.

    Settings without such a baseline have none.
    """
    baseline = natural_baseline(study)
    if baseline is None or measure not in study.by_run:
        return {}
    runs = study.labelled[study.labelled["status"] == Status.COMPLETED]
    finals = runs["run_key"].map(study.by_run[measure]).astype("float64").groupby(runs["cell"]).mean()
    baseline_of = matched_cells(study, baseline)
    baseline_of |= {cell: cell for cell in baseline_of.values()}
    targets = {cell: float(finals.get(base, math.nan)) for cell, base in baseline_of.items()}
    return {cell: value for cell, value in targets.items() if math.isfinite(value)}


def costs_to_target(
    study: Study, measure: str, *, target: float | Mapping[int, float], cost: str = "epochs"
) -> pd.DataFrame:
    """Returns one row per run: `run_key`, `cell`, `seed`, `cost`, `target` and whether it `reached` it.

    target: one for all settings, or one by cell; settings without one are left out.

    The cost is that of the first evaluation at which the measure is at least the target (at most, where smaller is better), or of
    the last evaluation of a run that never is. PRUNED runs count up to where they were stopped. Runs without an evaluation, or
    without FLOPs where these are the cost, are left out.

    Raises `ValueError` for an unknown cost, and for a measure whose direction is not known.
    """
    if cost not in COSTS:
        raise ValueError(f"cost is {cost!r}; it must be one of {', '.join(COSTS)}")
    larger = larger_is_better(measure)
    points = with_cost(study.history, cost)
    points = points[points["measure"] == measure]
    cells = dict(zip(study.labelled["run_key"], study.labelled["cell"], strict=True))
    points["target"] = target if isinstance(target, int | float) else points["run_key"].map(cells).map(dict(target))
    points = points.dropna(subset=["target", "value"])
    costs = up_to_target(points, points["target"], rises=larger)
    runs = study.labelled[study.labelled["status"].isin([Status.COMPLETED, Status.PRUNED])]
    targets = points.drop_duplicates("run_key").set_index("run_key")["target"]
    return runs[["run_key", "cell", "seed"]].join(costs.join(targets), on="run_key", how="inner").reset_index(drop=True)


def reached_by_setting(
    study: Study, measure: str, *, target: float | Mapping[int, float] | None = None, cost: str = "epochs"
) -> pd.DataFrame:
    """Returns one row per setting: how many runs reached the target, and the costs at which a half of them has.

    Columns: `setting`, `num_runs`, `num_reached`, `median`, its 95% interval `median_low` and `median_high`, `longest`. The
    median is that of the Kaplan-Meier estimate: the cost by which half of all runs would have reached the target; NaN where too
    few did. target: None for the mean final value of the setting of the natural baseline that each is compared with.

    Raises `ValueError` where there is no target: the study has no baseline, and none was given.
    """
    targets = natural_targets(study, measure) if target is None else target
    if targets == {}:
        raise ValueError(f"target: the study has no baseline whose {measure} could be the target; give a number")
    runs = costs_to_target(study, measure, target=targets, cost=cost)
    rows = []
    for cell, label in study.cells[["cell", "label"]].itertuples(index=False):
        own = runs[runs["cell"] == cell]
        if len(own):
            estimate = share_reached(own["cost"], own["reached"])
            low, high = _median_interval(estimate)
            rows.append(
                {
                    "setting": label,
                    "metric": measure,
                    "target": float(own["target"].iloc[0]),
                    "cost": cost,
                    "num_runs": len(own),
                    "num_reached": int(own["reached"].sum()),
                    "median": estimate.cost_of_share(_SHARE),
                    "median_low": low,
                    "median_high": high,
                    "longest": float(own["cost"].max()),
                }
            )
    return pd.DataFrame(rows)


def _median_interval(estimate: ShareReached) -> tuple[float, float]:
    """Returns the costs at which the upper and the lower end of the share reach a half; NaN where an end never does.

    Reference: Brookmeyer and Crowley, "A confidence interval for the median survival time", Biometrics 1982.
    """
    ends = [estimate.costs[side >= _SHARE] for side in (estimate.high, estimate.low)]
    low, high = (float(each[0]) if len(each) else math.nan for each in ends)
    return low, high
