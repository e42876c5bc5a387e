"""Speed-up of distillation settings at equal accuracy, paired by seed.

The runs of a baseline and of another setting with the same seed, and equal values of what is pooled, form a pair. The target is
the final accuracy of the baseline, or a fraction of it. A run reaches the target at its first evaluation there, because accuracy
between evaluations is unknown. A pair whose second run never reaches the target has no ratio, and neither has a mean over pairs
that includes it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pruneyard.reports.records import Status
from pruneyard.reports.statistics.intervals import Floats, estimate
from pruneyard.reports.study import Study

SHARES = (1.0, 0.98, 0.95)
"""Fractions of the baseline's final accuracy that define the targets."""
BASELINE = "idc"
"""The baseline method if exactly one setting uses it; otherwise the slowest setting is the baseline."""
_FLOPS = "train/flops"

Interval = tuple[float, float, float]
"""Mean over seeds and the ends of its 95% interval; NaN if missing."""


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """The comparison of one setting (`rival`) with the baseline at one target; `share` None compares complete runs.

    Times are distillation times in s. Ratios are geometric means of baseline / rival: above 1 the rival is faster. `rival_s`,
    `ratio` and `flops_ratio` are NaN unless every pair reached the target. `level` is the mean target, `difference` the final
    accuracy of the rival minus that of the baseline. `num_at_once` counts pairs whose baseline reached the target at its first
    evaluation; it may have reached it earlier, so the true ratio may be smaller.
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
    """Compares all settings with the baseline, per data set, model and images per class; larger `measure` is better."""
    points = points_of_runs(study, measure)
    found: list[Speedup] = []
    for place, group in _evaluated_cells(study, points).groupby("place", sort=False):
        series = dict(zip(group["cell"].tolist(), group["series"].tolist(), strict=True))
        baseline = _baseline(group)
        firsts = _evaluations_by_repetition(points, baseline)
        for cell in (cell for cell in series if cell != baseline):
            found += _compare((str(place), series[baseline], series[cell]), firsts, _evaluations_by_repetition(points, cell))
    return found


def points_of_runs(study: Study, measure: str) -> pd.DataFrame:
    """Returns evaluations of completed distillation runs: columns `cell, seed, pooled, run_key, step, wall_s, value, flops`."""
    runs = study.labelled
    runs = runs.loc[(runs["status"] == Status.COMPLETED) & (runs["kind"] == "distill"), ["run_key", "cell", "seed", "pooled"]]
    history = study.history
    counted = history.loc[history["measure"] == _FLOPS, ["run_key", "step", "value"]]
    points = history.loc[history["measure"] == measure, ["run_key", "step", "wall_s", "value"]].merge(runs, on="run_key")
    # A left join keeps runs whose FLOPs are not counted.
    joined = points.merge(counted.rename(columns={"value": "flops"}), on=["run_key", "step"], how="left")
    ordered: pd.DataFrame = joined.dropna(subset=["value"]).sort_values(["cell", "seed", "step"], kind="stable")
    return ordered.reset_index(drop=True)


def places(study: Study) -> pd.Series[str]:
    """Returns the group of each cell of `study.cells`: data, model and images per class, as far as they differ."""
    sizes = [f"ipc {ipc:g}" if ipc > 0 else "" for ipc in study.cells["ipc"].astype("float64")]
    if "ipc" not in study.varying:
        return study.cells["field"]
    texts = zip(study.cells["field"], sizes, strict=True)
    return pd.Series([" · ".join(part for part in pair if part) for pair in texts], index=study.cells.index)


@dataclass(frozen=True, kw_only=True)
class _Evaluations:
    """The evaluations of one run, in order: times in s, counted FLOPs (NaN if not counted), values."""

    wall_s: Floats
    flops: Floats
    values: Floats

    def reaches(self, level: float) -> int | None:
        """Returns the index of the first evaluation that reaches the level, or None."""
        there = np.flatnonzero(self.values >= level)
        return int(there[0]) if len(there) else None


Arrival = tuple[_Evaluations, int, _Evaluations, int | None]
"""Evaluations of the baseline and the index where it reaches the target, then the same of the rival."""


Repetition = tuple[Hashable, ...]
"""The seed of a run, and its values of what is pooled."""


def _evaluations_by_repetition(points: pd.DataFrame, cell: int) -> dict[Repetition, _Evaluations]:
    """Returns the evaluations of a cell's runs by repetition, without those of which there are several runs."""
    groups = points[points["cell"] == cell].groupby(["seed", "pooled"], sort=True)
    return {repetition: _evaluations(own) for repetition, own in groups if own["run_key"].nunique() == 1}


def _evaluations(points: pd.DataFrame) -> _Evaluations:
    wall_s, flops, values = (points[name].to_numpy(dtype="float64") for name in ("wall_s", "flops", "value"))
    return _Evaluations(wall_s=wall_s, flops=flops, values=values)


def _evaluated_cells(study: Study, points: pd.DataFrame) -> pd.DataFrame:
    """Returns cells whose runs were evaluated more than once, with `place` and `took`, their mean time in s."""
    ends = points.groupby(["cell", "run_key"]).agg(num=("step", "size"), took=("wall_s", "max")).reset_index()
    took = ends[ends["num"] > 1].groupby("cell")["took"].mean()
    cells = study.cells.assign(place=places(study), took=study.cells["cell"].map(took))
    kept: pd.DataFrame = cells[cells["took"].notna()]
    return kept


def _baseline(group: pd.DataFrame) -> int:
    """Returns the baseline cell of the group."""
    named = group[group["method"] == BASELINE]
    chosen = named if len(named) == 1 else group.sort_values("took", kind="stable").tail(1)
    return int(chosen["cell"].iloc[0])


def _compare(
    names: tuple[str, str, str],
    firsts: Mapping[Repetition, _Evaluations],
    seconds: Mapping[Repetition, _Evaluations],
) -> Iterator[Speedup]:
    """Yields one comparison per target. names: place, baseline, rival."""
    pairs = [(firsts[each], seconds[each]) for each in firsts if each in seconds]
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


def _arrival(first: _Evaluations, second: _Evaluations, share: float | None) -> Arrival:
    """Returns where both runs reach the target, or their ends if `share` is None."""
    if share is None:
        return first, len(first.values) - 1, second, len(second.values) - 1
    level = share * float(first.values[-1])
    there = first.reaches(level)
    assert there is not None, "the baseline reaches every fraction of its own final value"
    return first, there, second, second.reaches(level)


def _mean(values: Sequence[float]) -> Interval:
    """Returns the mean with its interval; NaN if any value is."""
    found = estimate(values)
    return float(found.mean), float(found.low), float(found.high)


def _ratio(arrivals: Sequence[Arrival], cost: str) -> Interval:
    """Returns the geometric mean of baseline / rival over pairs, with its interval."""
    logs = []
    for first, there, second, here in arrivals:
        paid = math.nan if here is None else float(getattr(second, cost)[here])
        ratio = float(getattr(first, cost)[there]) / paid if paid > 0 else math.nan
        # The mean of logarithms: a ratio of 2 and one of 1/2 cancel, whichever setting is the baseline.
        logs.append(math.log(ratio) if ratio > 0 else math.nan)
    mean, low, high = _mean(logs)
    return math.exp(mean), math.exp(low), math.exp(high)
