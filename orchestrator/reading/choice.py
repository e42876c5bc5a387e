"""Chooses among runs and settings: the best run by a metric that it was not tested on, and the Pareto front."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.reading.metric_names import check_recorded, direction_of
from pruneyard.orchestrator.spec.direction import COSTS
from pruneyard.orchestrator.spec.scheduler import check_metric
from pruneyard.reports.records import Status
from pruneyard.reports.statistics.fronts import on_front

DEFAULT_SPLIT = "val"


def best_run(finals: pd.DataFrame, metric: str, mode: str | None) -> "pd.Series[Any]":
    """Returns the completed run with the best final value, as a row of `finals`; the first one of several equal runs.

    metric: `split/name`, a name alone for that of the val split, or a column of costs.
    Raises `UsageError` for a metric of the test split, for one that no completed run has, and where its direction is not known.
    """
    name = metric if "/" in metric or metric in COSTS else f"{DEFAULT_SPLIT}/{metric}"
    if name not in COSTS:
        try:
            check_metric(name, field="metric")
        except ValueError as error:
            raise UsageError(str(error)) from error
    check_recorded([name], measures=finals.attrs["measures"])
    direction = direction_of(name, mode)
    completed = finals[finals["status"].eq(Status.COMPLETED) & finals[name].notna()]
    if completed.empty:
        raise UsageError(f"{name}: no completed run has it")
    values = completed[name].astype("float64")
    return completed.iloc[int(values.argmax() if direction == "max" else values.argmin())]


def pareto_front(table: pd.DataFrame, directions: Mapping[str, str]) -> pd.DataFrame:
    """Returns the rows that no other row dominates; those without a value for every objective are left out."""
    signs = np.array([-1.0 if direction == "max" else 1.0 for direction in directions.values()])
    costs = table[list(directions)].to_numpy(dtype=float) * signs
    front: pd.DataFrame = table[on_front(costs)]
    return front
