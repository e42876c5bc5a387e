"""How much sooner one setting of distillation gets as far as another, seed by seed.

Of a seed the baseline's run and a rival's make a pair. What the baseline has at its end, or a share of it, is the level that
both shall reach; each does so at its first evaluation there, since in between nothing is known. A pair whose rival never gets
there has no ratio, and neither has a mean over pairs of which one has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pruneyard.reports.records import Status
from pruneyard.reports.statistics import Floats, estimate
from pruneyard.reports.study import Study

SHARES = (1.0, 0.98, 0.95)
"""Of the baseline's last value, for the levels."""
BASELINE = "idc"
"""What others are held against, where it is there once; else the setting that took longest."""
_FLOPS = "train/flops"

Interval = tuple[float, float, float]
"""Mean over seeds and the ends of its 95% interval; NaN where there is none."""


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """One rival on one level; `share` None: each to its own end, whatever it reaches there.

    Times are in s of distillation, ratios baseline / rival as geometric means: above 1 the rival is faster. `rival_s`, `ratio`
    and `flops_ratio` are NaN unless every pair reached the level. `level` is the mean of the pairs' levels, `difference` how
    far the rival ends above the baseline. `num_at_once` counts pairs whose baseline was there at its first evaluation, so
    that it may have been there before: then the ratio may be smaller than it is said to be.
    """

    place: str
    baseline: str
    rival: str
    share: float | None
    level: float
    num_pairs: int
    num_reached: int
    num_at_once: int
    baseline_s: Interval
    rival_s: Interval
    ratio: Interval
    flops_ratio: Interval
    difference: Interval


def speedups(study: Study, measure: str) -> list[Speedup]:
    """Of all rivals to the baselines of all data, models and images per class; `measure` is one that shall rise."""
    points = points_of_runs(study, measure)
    found: list[Speedup] = []
    for place, group in _on_their_way(study, points).groupby("place", sort=False):
        series = dict(zip(group["cell"].tolist(), group["series"].tolist(), strict=True))
        baseline = _baseline(group)
        firsts = _ways(points, baseline)
        for cell in (cell for cell in series if cell != baseline):
            found += _of_rival((str(place), series[baseline], series[cell]), firsts, _ways(points, cell))
    return found


def points_of_runs(study: Study, measure: str) -> pd.DataFrame:
    """Evaluations of completed distillation runs: columns `cell, seed, run_key, step, wall_s, value, flops`, by step."""
    runs = study.labelled
    runs = runs.loc[(runs["status"] == Status.COMPLETED) & (runs["kind"] == "distill"), ["run_key", "cell", "seed"]]
    history = study.history
    counted = history.loc[history["measure"] == _FLOPS, ["run_key", "step", "value"]]
    points = history.loc[history["measure"] == measure, ["run_key", "step", "wall_s", "value"]].merge(runs, on="run_key")
    joined = points.merge(counted.rename(columns={"value": "flops"}), on=["run_key", "step"], how="left")
    ordered: pd.DataFrame = joined.dropna(subset=["value"]).sort_values(["cell", "seed", "step"], kind="stable")
    return ordered.reset_index(drop=True)


def places(study: Study) -> pd.Series[str]:
    """Where each cell of `study.cells` is compared: data, model and images per class, as far as they differ."""
    sizes = [f"ipc {ipc:g}" if ipc > 0 else "" for ipc in study.cells["ipc"].astype("float64")]
    if "ipc" not in study.varying:
        return study.cells["field"]
    texts = zip(study.cells["field"], sizes, strict=True)
    return pd.Series([" · ".join(part for part in pair if part) for pair in texts], index=study.cells.index)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """The evaluations of one run, in order: times in s, counted FLOPs (NaN where nobody counted), values."""

    wall_s: Floats
    flops: Floats
    values: Floats

    def reaches(self, level: float) -> int | None:
        """The place of the first evaluation at the level."""
        there = np.flatnonzero(self.values >= level)
        return int(there[0]) if len(there) else None


Arrival = tuple[_Way, int, _Way, int | None]
"""The baseline's way and its place at the level, the rival's way and its place there."""


def _ways(points: pd.DataFrame, cell: int) -> dict[int, _Way]:
    """Of a cell's runs, by seed."""
    own = points[points["cell"] == cell]
    return {seed: _way(own[own["seed"] == seed]) for seed in sorted(set(own["seed"].tolist()))}


def _way(points: pd.DataFrame) -> _Way:
    wall_s, flops, values = (points[name].to_numpy(dtype="float64") for name in ("wall_s", "flops", "value"))
    return _Way(wall_s=wall_s, flops=flops, values=values)


def _on_their_way(study: Study, points: pd.DataFrame) -> pd.DataFrame:
    """Cells whose runs were evaluated more than once, with `place` and `took`, their mean time in s."""
    ends = points.groupby(["cell", "run_key"]).agg(num=("step", "size"), took=("wall_s", "max")).reset_index()
    took = ends[ends["num"] > 1].groupby("cell")["took"].mean()
    cells = study.cells.assign(place=places(study), took=study.cells["cell"].map(took))
    kept: pd.DataFrame = cells[cells["took"].notna()]
    return kept


def _baseline(group: pd.DataFrame) -> int:
    """The cell that the others of the group are held against."""
    named = group[group["method"] == BASELINE]
    chosen = named if len(named) == 1 else group.sort_values("took", kind="stable").tail(1)
    return int(chosen["cell"].iloc[0])


def _of_rival(
    names: tuple[str, str, str], firsts: Mapping[int, _Way], seconds: Mapping[int, _Way]
) -> Iterator[Speedup]:
    """names: place, baseline, rival."""
    pairs = [(firsts[seed], seconds[seed]) for seed in firsts if seed in seconds]
    if not pairs:
        return
    for share in (None, *SHARES):
        arrivals = [_arrival(*pair, share) for pair in pairs]
        yield Speedup(
            place=names[0],
            baseline=names[1],
            rival=names[2],
            share=share,
            level=math.nan if share is None else share * float(np.mean([first.values[-1] for first, _ in pairs])),
            num_pairs=len(pairs),
            num_reached=sum(there is not None for *_, there in arrivals),
            num_at_once=0 if share is None else sum(there == 0 for _, there, _, _ in arrivals),
            baseline_s=_mean([first.wall_s[there] for first, there, _, _ in arrivals]),
            rival_s=_mean([math.nan if there is None else second.wall_s[there] for *_, second, there in arrivals]),
            ratio=_ratio(arrivals, "wall_s"),
            flops_ratio=_ratio(arrivals, "flops"),
            difference=_mean([second.values[-1] - first.values[-1] for first, second in pairs]),
        )


def _arrival(first: _Way, second: _Way, share: float | None) -> Arrival:
    """At the level, or at their ends."""
    if share is None:
        return first, len(first.values) - 1, second, len(second.values) - 1
    level = share * float(first.values[-1])
    there = first.reaches(level)
    assert there is not None, "the baseline is at a share of its own end"
    return first, there, second, second.reaches(level)


def _mean(values: Sequence[float]) -> Interval:
    """NaN where one of them is."""
    found = estimate(values)
    return float(found.mean), float(found.low), float(found.high)


def _ratio(arrivals: Sequence[Arrival], cost: str) -> Interval:
    """Geometric mean over pairs of baseline / rival, with its interval."""
    logs = []
    for first, there, second, here in arrivals:
        paid = math.nan if here is None else float(getattr(second, cost)[here])
        ratio = float(getattr(first, cost)[there]) / paid if paid > 0 else math.nan
        logs.append(math.log(ratio) if ratio > 0 else math.nan)
    mean, low, high = _mean(logs)
    return math.exp(mean), math.exp(low), math.exp(high)
