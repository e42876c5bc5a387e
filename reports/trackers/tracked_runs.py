"""The runs of a study as trackers see them: parameters, tags, and metrics by step and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from pruneyard.reports.cells import flat_spec
from pruneyard.reports.study import Study


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of a metric, with its step and the time at which it was measured."""

    metric: str
    step: int
    value: float
    at: datetime


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One run. `name` describes it in words, `parameters` are the keys of its spec, `tags` what else identifies it."""

    key: str
    name: str
    study: str
    setting: str
    status: str
    started_at: datetime
    ended_at: datetime
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    points: tuple[Point, ...]


def tracked_runs(study: Study) -> Iterator[TrackedRun]:
    """Yields every run of a study, with all its evaluations in the order of their steps. NaN values are left out."""
    labels = dict(zip(study.cells["cell"], study.cells["label"], strict=True))
    history = study.history.dropna(subset=["value"]).sort_values(["run_key", "step"], kind="stable")
    places = history.groupby("run_key", sort=False).indices
    for run in study.labelled.to_dict("records"):
        own = history.iloc[places.get(run["run_key"], [])]
        yield TrackedRun(
            key=run["run_key"],
            name=f"{labels[run['cell']]}, seed {run['seed']}",
            study=run["study"],
            setting=labels[run["cell"]],
            status=str(run["status"]),
            started_at=_plain_time(run["started_at"]),
            ended_at=_plain_time(run["ended_at"]),
            parameters=flat_spec(run["spec_json"]) | {"seed": run["seed"]},
            tags=_tags(run),
            points=tuple(_points(own, _plain_time(run["started_at"]))),
        )


def _tags(run: Mapping[Any, Any]) -> dict[str, str]:
    names = ("run_key", "kind", "stage", "parent_key", "device", "code_version", "torch_version", "artifact")
    return {f"pruneyard.{name}": str(run[name]) for name in names if isinstance(run[name], str)}


def _points(rows: pd.DataFrame, started_at: datetime) -> Iterator[Point]:
    for metric, step, value, wall_s in rows[["measure", "step", "value", "wall_s"]].itertuples(index=False):
        seconds = 0.0 if pd.isna(wall_s) else float(wall_s)
        yield Point(metric=str(metric), step=int(step), value=float(value), at=started_at + timedelta(seconds=seconds))


def _plain_time(time: Any) -> datetime:
    found: datetime = pd.Timestamp(time).to_pydatetime()
    return found
