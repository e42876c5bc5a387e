"""Scores of methods over several tasks, such as densities or data sets: aggregates with intervals, and performance profiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from pruneyard.reports.baselines import natural_baseline
from pruneyard.reports.glossary import LARGER_IS_BETTER
from pruneyard.reports.paired import matched_cells
from pruneyard.reports.records import Status
from pruneyard.reports.statistics.aggregates import (
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from pruneyard.reports.statistics.intervals import Floats
from pruneyard.reports.study import CALIBRATE, DENSE, Study

NUM_THRESHOLDS, NUM_DRAWS = 41, 500
_STATISTICS: Mapping[str, Callable[[Floats], Floats]] = {
    "mean": lambda drawn: drawn.mean(axis=(-2, -1)),
    "median": lambda drawn: np.median(drawn.mean(axis=-2), axis=-1),
    "iqm": lambda drawn: interquartile_mean(drawn, axis=(-2, -1)),
}


def aggregates(study: Study, measure: str) -> pd.DataFrame:
    """Returns one row per method with its settings: mean, median over tasks and interquartile mean (`iqm`) over all tasks.

    A task is a data set, model and stage at one density or number of images per class. Only tasks and seeds count that every
    method has, so all are judged by the same. Each aggregate has a 95% interval (`_low`, `_high`) by a bootstrap that draws the
    seeds of every task anew. `probability_better` is the probability that a run is better than one of the study's natural
    baseline on the same task, averaged over tasks. Dense networks and calibrate runs are left out.

    Raises `ValueError` where methods have no two common tasks or no two common seeds.
    Reference: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 2021.
    """
    scores = common_scores(study, measure)
    rivals = _rivals(study)
    rows = []
    for name, scores_ST in scores.items():
        row: dict[str, object] = {"method": name, "metric": measure, "num_tasks": scores_ST.shape[1], "num_seeds": len(scores_ST)}
        for statistic, function in _STATISTICS.items():
            generator = np.random.default_rng(0)
            low, high = stratified_bootstrap(scores_ST, function, generator=generator)
            row |= {statistic: float(function(scores_ST)), f"{statistic}_low": low, f"{statistic}_high": high}
        rival = rivals.get(name)
        better = math.nan if rival not in scores else _probability_better(scores_ST, scores[str(rival)], measure)
        rows.append(row | {"probability_better": better})
    larger = LARGER_IS_BETTER.get(measure.partition("/")[2], True)
    return pd.DataFrame(rows).sort_values("iqm", ascending=not larger, kind="stable").reset_index(drop=True)


def profiles(study: Study, measure: str) -> pd.DataFrame:
    """Returns the performance profile of every method: `method`, `threshold`, `share`, `share_low`, `share_high`.

    The share of all tasks and seeds whose value is above the threshold, with a 95% interval as for `aggregates`.
    """
    scores = common_scores(study, measure)
    all_scores = np.concatenate([each.ravel() for each in scores.values()])
    thresholds = np.linspace(all_scores.min(), all_scores.max(), NUM_THRESHOLDS)
    frames = []
    for name, scores_ST in scores.items():
        ends = [_interval_above(scores_ST, limit) for limit in thresholds]
        columns = {"threshold": thresholds, "share": performance_profile(scores_ST, thresholds)}
        low, high = zip(*ends, strict=True)
        frames.append(pd.DataFrame({"method": name, **columns, "share_low": low, "share_high": high}))
    return pd.concat(frames, ignore_index=True)


def _interval_above(scores_ST: Floats, limit: float) -> tuple[float, float]:
    def share(drawn: Floats) -> Floats:
        found: Floats = (drawn > limit).mean(axis=(-2, -1))
        return found

    return stratified_bootstrap(scores_ST, share, generator=np.random.default_rng(0), num_draws=NUM_DRAWS)


def common_scores(study: Study, measure: str) -> dict[str, Floats]:
    """Returns the final values of every method by seed and task, `(S, T)`, of the tasks and seeds that all methods have."""
    cells = study.cells[(study.cells["method"] != DENSE) & (study.cells["kind"] != CALIBRATE)]
    tasks_of = [f"{field} {density} {ipc}" for field, density, ipc in cells[["field", "density", "ipc"]].itertuples(index=False)]
    cells = cells.assign(task=tasks_of)
    runs = study.labelled[study.labelled["status"] == Status.COMPLETED]
    if measure not in study.by_run:
        raise ValueError(f"{measure}: no run has it")
    values = runs[["cell", "outer_seed"]].assign(value=runs["run_key"].map(study.by_run[measure]).astype("float64")).dropna()
    table = values.merge(cells[["cell", "series", "task"]], on="cell")
    by_place = table.groupby(["series", "task", "outer_seed"])["value"].mean().unstack("series").dropna()
    tasks = by_place.index.get_level_values("task").unique()
    seeds = set.intersection(*(set(by_place.loc[task].index) for task in tasks)) if len(tasks) else set()
    if len(tasks) < 2 or len(seeds) < 2:
        raise ValueError(
            f"the methods have {len(tasks)} tasks in common, with {len(seeds)} seeds of {measure} in each; "
            "aggregates need two of both"
        )
    chosen = by_place[by_place.index.get_level_values("outer_seed").isin(seeds)]
    order = [name for name in dict.fromkeys(cells["series"]) if name in chosen]
    return {name: chosen[name].unstack("task").to_numpy(dtype=np.float64) for name in order}


def _rivals(study: Study) -> dict[str, str]:
    """Returns the series of the natural baseline that each series is compared with; series with none or several have no entry."""
    baseline = natural_baseline(study)
    if baseline is None:
        return {}
    series = dict(zip(study.cells["cell"], study.cells["series"], strict=True))
    found: dict[str, set[str]] = {}
    for cell, other in matched_cells(study, baseline).items():
        if series[cell] != series[other]:
            found.setdefault(series[cell], set()).add(series[other])
    return {name: rivals.pop() for name, rivals in found.items() if len(rivals) == 1}


def _probability_better(ours_ST: Floats, theirs_ST: Floats, measure: str) -> float:
    larger = LARGER_IS_BETTER.get(measure.partition("/")[2])
    if larger is None:
        return math.nan
    found = [probability_of_improvement(ours, theirs) for ours, theirs in zip(ours_ST.T, theirs_ST.T, strict=True)]
    mean = float(np.mean(found))
    return mean if larger else 1 - mean
