"""The Pareto front of a measure against a cost, and how much of the plane each method dominates."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pruneyard.reports.glossary import larger_is_better
from pruneyard.reports.statistics.fronts import hypervolume, on_front
from pruneyard.reports.study import Study

COSTS = ("num_active", "train_flops", "train_s")


def front_points(study: Study, measure: str, *, cost: str = "num_active") -> pd.DataFrame:
    """Returns every setting with both numbers: `setting`, `series`, `field`, `cost`, `mean`, `low`, `high`, `num`, `on_front`.

    The front is that of each data set, model and stage alone, over means; intervals are not considered. Raises `ValueError` for
    an unknown cost, a measure whose direction is not known, and where no setting has both.
    """
    if cost not in COSTS:
        raise ValueError(f"cost is {cost!r}; it must be one of {', '.join(COSTS)}")
    larger = larger_is_better(measure)
    table = study.measured(measure)
    table = table[table[cost] > 0].rename(columns={"label": "setting"})
    if table.empty:
        raise ValueError(f"no setting has both {measure} and {cost}")
    found = table[["setting", "series", "field", "mean", "low", "high", "num"]].assign(cost=table[cost].astype("float64"))
    signed = found["mean"] * (-1 if larger else 1)
    found["on_front"] = False
    for _, own in found.groupby("field", sort=False):
        found.loc[own.index, "on_front"] = on_front(np.column_stack([own["cost"], signed[own.index]]))
    return found.reset_index(drop=True)


def hypervolumes(study: Study, measure: str, *, cost: str = "num_active") -> pd.DataFrame:
    """Returns one row per method with its settings and field: `hypervolume` and how many of its points are on the front.

    The hypervolume is the share of the rectangle between the best and the worst of all points of the field, over the logarithm of
    the cost, that the method's points dominate: 0 for nothing, 1 for the best corner itself.
    """
    points = front_points(study, measure, cost=cost)
    larger = larger_is_better(measure)
    rows = []
    for field, own in points.groupby("field", sort=False):
        scaled = np.column_stack([_unit(np.log(own["cost"])), _unit(-own["mean"] if larger else own["mean"])])
        for series, places in own.groupby("series", sort=False).indices.items():
            volume = hypervolume(scaled[places], [1.0, 1.0])
            rows.append(
                {
                    "method": series,
                    "field": field,
                    "metric": measure,
                    "cost": cost,
                    "hypervolume": volume,
                    "num_on_front": int(own["on_front"].to_numpy()[places].sum()),
                    "num_settings": len(places),
                }
            )
    table = pd.DataFrame(rows).sort_values(["field", "hypervolume"], ascending=[True, False], kind="stable")
    return table.reset_index(drop=True)


def _unit(values: pd.Series[float]) -> pd.Series[float]:
    spread = float(values.max() - values.min())
    return (values - values.min()) / spread if spread else values * 0
