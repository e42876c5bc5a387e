"""Divides the spread of a setting: the variance that each level of its nested repetitions adds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pruneyard.reports.records import Status
from pruneyard.reports.statistics.aggregates import nested_variances
from pruneyard.reports.statistics.intervals import Floats
from pruneyard.reports.study import Study


def variance_by_level(study: Study, measure: str) -> pd.DataFrame:
    """Returns one row per setting and level: `setting`, `level` (1 is the outermost), `repetitions`, `variance`, `share`.

    A run that rests on another is nested in it: trainings on one distilled set, calibrations of one network. Level 1 repeats the
    first runs of the chain, the last level the runs of the setting itself. Every level needs the same number of repetitions, so
    what some have more of is left out. Settings whose runs rest on nothing have one level.

    Raises `ValueError` where no setting has two repetitions of every level.
    """
    runs = study.labelled[study.labelled["status"] == Status.COMPLETED]
    lineage = zip(study.labelled["run_key"], study.labelled["parent_key"], strict=True)
    parents = {key: parent for key, parent in lineage if isinstance(parent, str)}
    values = study.by_run[measure] if measure in study.by_run else pd.Series(dtype="float64")
    rows = []
    for cell, label in study.cells[["cell", "label"]].itertuples(index=False):
        own = [key for key in runs.loc[runs["cell"] == cell, "run_key"] if np.isfinite(values.get(key, np.nan))]
        scores = _nested({key: float(values[key]) for key in own}, parents)
        if scores is None:
            continue
        found = nested_variances(scores)
        for level, variance in enumerate(found, start=1):
            share = variance / found.sum() if found.sum() else np.nan
            rows.append(
                {
                    "setting": label,
                    "metric": measure,
                    "level": level,
                    "repetitions": scores.shape[level - 1],
                    "variance": variance,
                    "share": share,
                }
            )
    if not rows:
        raise ValueError(f"no setting has two completed repetitions of {measure} at every level")
    return pd.DataFrame(rows)


def _nested(values: Mapping[str, float], parents: Mapping[str, str]) -> Floats | None:
    """Returns the values as an array with one axis per level; None if some level has fewer than two repetitions."""
    paths = {_path(key, parents): value for key, value in values.items()}
    depths = {len(path) for path in paths}
    if len(depths) != 1:
        return None
    (depth,) = depths
    # A level that repeats nothing, such as one training on each set, is no level of its own.
    levels = [level for level in range(depth) if _fewest(list(paths), level) > 1]
    if not levels:
        return None
    shape = [_fewest(list(paths), level) for level in range(depth)]
    array = _filled(paths, shape)
    return array.reshape([size for size in shape if size > 1])


def _path(key: str, parents: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the keys of a run's lineage from its first run to itself; several parents of one run count as one name."""
    path = [key]
    while path[0] in parents and parents[path[0]] not in path:
        path.insert(0, parents[path[0]])
    return tuple(path)


def _fewest(paths: list[tuple[str, ...]], level: int) -> int:
    """Returns the smallest number of repetitions of a level under one of the level above."""
    children: dict[tuple[str, ...], set[str]] = {}
    for path in paths:
        children.setdefault(path[:level], set()).add(path[level])
    return min(len(found) for found in children.values())


def _filled(tree: Mapping[tuple[str, ...], float], shape: list[int]) -> Floats:
    """Returns the first `shape[l]` repetitions of every level, in the order of their appearance."""
    if not shape:
        return np.asarray(next(iter(tree.values())), dtype=np.float64)
    heads = list(dict.fromkeys(path[0] for path in tree))[: shape[0]]
    below = [{path[1:]: value for path, value in tree.items() if path[0] == head} for head in heads]
    return np.stack([_filled(each, shape[1:]) for each in below])
