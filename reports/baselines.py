"""What the settings of a study are compared with where the user names nothing: its natural baselines, or the leading settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from pruneyard.reports.glossary import larger_is_better
from pruneyard.reports.leading import selection_measure
from pruneyard.reports.records import Status
from pruneyard.reports.study import DENSE, PLACE, Study, in_words

METHODS = {"sparse": "static", "distill": "random", "calibrate": "none", "nodes": "plain"}
"""The method that the others of its kind of jobs are compared with."""
SETTINGS = {"gradient.name": "plain", "objective.name": "cross_entropy"}
"""Other columns with a value that stands for plain training."""
MIN_RUNS = 2
"""Completed runs that a leading setting has at least."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Settings with this value in this column of the summary."""

    column: str
    value: str

    @property
    def selection(self) -> dict[str, str]:
        """Returns the values that select it, such as `{"method": "static"}`."""
        return {self.column: self.value}

    def words(self, study: Study) -> str:
        """Returns the baseline in words, such as `static` or `gradient plain`."""
        return in_words(self.column, self.value, study.names.get(self.column, self.column))


def natural_baseline(study: Study) -> dict[str, str] | None:
    """Returns the selection of the first natural baseline that a study has; None without one."""
    found = [baseline for kind in METHODS for baseline in natural_baselines(study, kind)]
    # Methods first: of two kinds of jobs, the one with a baseline method counts before plain gradients of the other.
    found.sort(key=lambda baseline: baseline.column != "method")
    return found[0].selection if found else None


def natural_baselines(study: Study, kind: str) -> list[Baseline]:
    """Returns the baselines of one kind of jobs that other settings of it differ from: static masks, plain gradients, ..."""
    cells = results_of(study, kind)
    known = [Baseline(column="method", value=METHODS[kind])] if kind in METHODS else []
    known += [Baseline(column=column, value=value) for column, value in SETTINGS.items()]
    found = []
    for baseline in known:
        values = set(cells[baseline.column].dropna()) - {DENSE} if baseline.column in cells else set()
        if baseline.value in values and len(values) > 1:
            found.append(baseline)
    return found


def results_of(study: Study, kind: str) -> pd.DataFrame:
    """Returns the cells of one kind of jobs, without those that only served to choose settings for fresh seeds."""
    cells: pd.DataFrame = study.cells[(study.cells["kind"] == kind) & ~study.cells["stage"].isin(study.chosen_from)]
    return cells


def leaders(study: Study, cells: pd.DataFrame) -> Mapping[int, int]:
    """Returns the leading cell for every other of these cells: the best on val with the same data, model, stage and size.

    A leader has at least two completed runs that were evaluated on val; groups without such a setting are left out. Dense
    networks, which are no competitors of sparse ones, lead dense ones only.
    """
    measure = selection_measure(study.finals)
    if measure is None:
        return {}
    runs = study.labelled[study.labelled["status"] == Status.COMPLETED]
    values = runs["run_key"].map(study.by_run[measure]).astype("float64").groupby(runs["cell"]).agg(["mean", "count"])
    means = values["mean"].where(values["count"] >= MIN_RUNS) * (1 if larger_is_better(measure) else -1)
    found: dict[int, int] = {}
    for _, group in cells.groupby(PLACE, dropna=False):
        others = group[group["method"] != DENSE]
        members = (others if len(others) else group)["cell"]
        known = members[members.map(means).notna()]
        if len(known):
            best = int(known.tolist()[known.map(means).argmax()])
            found |= {int(cell): best for cell in members if cell != best}
    return found
