"""Lineages of segmented trainings, in which each segment resumes from an earlier run with its own settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pruneyard.reports.planned import Population, read_populations
from pruneyard.reports.records import Status
from pruneyard.reports.study import Study

_SEGMENT_KEYS = "segment."
DEFAULT_OBJECTIVE = ("val/accuracy", "max")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One segment of a lineage, over its seeds.

    until: fraction of all training steps at its end. settings: those that differ among the segments of all lineages.
    values: final value of each seed. changed: True if its settings differ from those of the previous segment.
    """

    cell: int
    until: float
    settings: dict[str, Any]
    values: Sequence[float]
    changed: bool

    @property
    def mean(self) -> float:
        """Mean of the final values over seeds."""
        return float(pd.Series(self.values, dtype="float64").mean())


@dataclass(frozen=True, kw_only=True)
class Lineages:
    """All finished lineages of a stage, each from its first segment to its last: the best first, those that lost a seed last."""

    stage: str
    measure: str
    best_is: str  # max or min
    names: Sequence[str]  # of the settings, as the table of runs has them
    lines: Sequence[Sequence[Part]]


def lineages(study: Study) -> list[Lineages]:
    """Returns the lineages of every stage that has some, ranked by the objective of the stage's search."""
    runs = study.labelled[study.labelled["status"] == Status.COMPLETED.value].copy()
    segments = [json.loads(text).get("segment") or {} for text in runs["spec_json"]]
    runs["until"] = [float(segment.get("until", 1.0)) for segment in segments]
    runs["begun"] = [next(iter(segment.get("runs", ())), "") for segment in segments]
    unfinished = set(study.labelled.loc[study.labelled["status"] != Status.COMPLETED.value, "cell"])
    in_parts = runs[runs["until"].lt(1) | runs["begun"].ne("")]
    found = []
    for stage, (population, group) in _populations(study, in_parts).items():
        lines = _lines(study, in_parts, group, population.measure)
        if lines:
            rises = population.best_is == "max"
            # One in which a seed failed has no value for the search either: what survived may be the easier seeds.
            ordered = sorted(lines, key=lambda line: (line[-1].cell in unfinished, -line[-1].mean if rises else line[-1].mean))
            names = list(dict.fromkeys(name for line in lines for part in line for name in part.settings))
            found.append(
                Lineages(
                    stage=stage,
                    measure=population.measure,
                    best_is=population.best_is,
                    names=names,
                    lines=ordered,
                )
            )
    return found


def _populations(study: Study, runs: pd.DataFrame) -> dict[str, tuple[Population, pd.DataFrame]]:
    """Returns by stage the populations of the plan, which may share runs, and then the runs outside of any population."""
    told: dict[str, Population] = {}
    for folder in study.folders:
        told |= read_populations(folder)
    found = {stage: (one, runs[runs["run_key"].isin(one.run_keys)]) for stage, one in told.items()}
    others = runs[~runs["run_key"].isin(frozenset().union(*(one.run_keys for one in told.values())))]
    for stage, group in others.groupby(others["stage"].fillna(""), sort=False):
        keys = frozenset(group["run_key"])
        # A stage that has a population keeps it, without its runs outside of that population.
        found.setdefault(str(stage), (Population(*DEFAULT_OBJECTIVE, keys), group))
    return found


def _lines(study: Study, everything: pd.DataFrame, runs: pd.DataFrame, measure: str) -> list[list[Part]]:
    """Returns lineages from their first segment to a final one, for final segments that have the measure."""
    if measure not in study.by_run:
        return []
    names = [
        name
        for name in study.labelled.attrs["settings"]
        if not name.startswith(_SEGMENT_KEYS) and runs[name].nunique(dropna=False) > 1
    ]
    cell_of = dict(zip(everything["run_key"], everything["cell"], strict=True))
    by_cell = {int(group["cell"].iloc[0]): group for _, group in everything.groupby("cell", sort=True)}
    lines = []
    for cell in dict.fromkeys(runs["cell"]):
        group = by_cell[cell]
        # Neither a segment that others may resume from, nor a training without segments.
        if group["until"].iloc[0] < 1 or not group["begun"].iloc[0]:
            continue
        cells = [cell]
        # `not in cells` ends a cycle, which damaged records could contain.
        while (before := cell_of.get(by_cell[cells[0]]["begun"].iloc[0])) is not None and before not in cells:
            cells.insert(0, before)
        parts: list[Part] = []
        for each in cells:
            row = by_cell[each].iloc[0]
            settings = {name: row[name] for name in names}
            values = study.by_run[measure].reindex(by_cell[each]["run_key"]).tolist()
            changed = bool(parts) and parts[-1].settings != settings
            parts.append(
                Part(cell=each, until=row["until"], settings=settings, values=values, changed=changed)
            )
        if pd.notna(parts[-1].mean):
            lines.append(parts)
    return lines


def schedule(study: Study) -> pd.DataFrame:
    """Returns the schedule of the best lineage of each stage: one row per segment, with the measure's mean over seeds."""
    rows = [
        {"stage": found.stage or None, "until": part.until, **part.settings, found.measure: part.mean}
        for found in lineages(study)
        for part in found.lines[0]
    ]
    return pd.DataFrame(rows)
