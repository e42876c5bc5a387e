"""Calibrators on the same earlier runs beside one another: measures with intervals, and differences to no calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.glossary import LARGER_IS_BETTER
from pruneyard.reports.statistics import clearly_best
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value
from pruneyard.reports.trust.judged import NEUTRAL, Interval, Judged, mean_of, over_outer, values_of

RANKED = ("test/nll", "test/ece", "test/ece_floor", "test/ece_smooth", "test/accuracy", "test/aurc")
_COMPARED = ("test/nll", "test/ece", "test/ece_smooth", "test/accuracy", "test/aurc")
_INFINITE = (math.inf, math.inf, math.inf)
USUAL = "temperature"
"""What is shown where nothing may be ranked."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One calibrator: its measures, and how far they are from those of `NEUTRAL` on the same runs, where these are there."""

    of: Judged
    num: int
    values: Mapping[str, Interval]
    differences: Mapping[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """All calibrators on the same earlier runs, best mean nll first where every one has an interval."""

    parent: str
    standings: Sequence[Standing]

    @property
    def is_ranked(self) -> bool:
        """Whether every calibrator was judged on several seeds."""
        return all(standing.num > 1 for standing in self.standings)

    @property
    def before(self) -> Judged | None:
        """The uncalibrated runs."""
        return next((standing.of for standing in self.standings if standing.of.calibrator == NEUTRAL), None)

    @property
    def after(self) -> Judged | None:
        """The calibrator to be shown: the first, or the usual one where nothing is ranked."""
        others = [standing.of for standing in self.standings if standing.of.calibrator != NEUTRAL]
        usual = [cell for cell in others if cell.calibrator == USUAL]
        return next(iter(others if self.is_ranked else [*usual, *others]), None)


def contests(study: Study, cells: Sequence[Judged]) -> list[Contest]:
    """One for each kind of earlier run that several calibrators were tried on; all of them where none was."""
    by_base: dict[str, dict[str, Judged]] = {}
    for cell in cells:
        by_base.setdefault(cell.base, {}).setdefault(_method_key(study, cell), cell)
    several = [named for named in by_base.values() if len(named) > 1] or list(by_base.values())
    return [_contest(study, list(named.values())) for named in several]


def _method_key(study: Study, cell: Judged) -> str:
    """The calibrator with its options, so far as cells differ in them."""
    row = study.cells[study.cells["cell"] == cell.cell].iloc[0]
    return study.words(row, ["method", *(key for key in study.varying if key.startswith("method."))])


def _contest(study: Study, cells: Sequence[Judged]) -> Contest:
    neutral = next((cell for cell in cells if cell.calibrator == NEUTRAL), None)
    standings = [_standing(study, cell, neutral) for cell in cells]
    ranked = all(standing.num > 1 for standing in standings)
    standings.sort(key=lambda each: _rank(each) if ranked else (each.of.calibrator != NEUTRAL, 0.0))
    return Contest(parent=cells[0].parent, standings=standings)


def _rank(standing: Standing) -> tuple[bool, float]:
    nll = standing.values["test/nll"][0]
    return math.isnan(nll), nll


def _standing(study: Study, cell: Judged, neutral: Judged | None) -> Standing:
    values = {measure: _value(study, cell, measure) for measure in RANKED}
    compared = (
        {}
        if neutral is None or neutral is cell
        else {m: _difference(study, cell, neutral, m) for m in _COMPARED}
    )
    return Standing(of=cell, num=cell.runs["outer"].nunique(), values=values, differences=compared)


def _value(study: Study, cell: Judged, measure: str) -> Interval:
    """A likelihood that a judged run lacks is infinite: it gave some label a probability of 0."""
    found = mean_of(study, cell, measure)
    if measure != "test/nll" or not math.isnan(found[0]):
        return found
    is_judged = values_of(study, cell, "test/accuracy").notna().all()
    return _INFINITE if is_judged else found


def _difference(study: Study, cell: Judged, neutral: Judged, measure: str) -> Interval:
    """Calibrated less not, over pairs of runs with the same parents and seed."""
    keys = ["parent_key", "seed"]
    sides = [
        each.runs.assign(value=values_of(study, each, measure))[[*keys, "outer", "value"]]
        for each in (cell, neutral)
    ]
    pairs = sides[0].merge(sides[1].drop(columns="outer"), on=keys, suffixes=("", "_before"))
    if pairs.empty:
        return math.nan, math.nan, math.nan
    apart: pd.Series[float] = pairs["value"] - pairs["value_before"]
    return over_outer(apart, pairs["outer"])


def ranking_table(study: Study, found: Sequence[Contest]) -> Table:
    """One row for each calibrator on each kind of earlier run."""
    parents = any(contest.parent for contest in found)
    bins = {standing.of.num_bins for contest in found for standing in contest.standings}
    same_bins = len(bins) == 1
    headers = [*(["of"] if parents else []), "calibrator", "seeds", "n"]
    headers += [] if same_bins else ["bins"]
    headers += [_header(measure, bins) for measure in RANKED]
    rows = []
    for contest in found:
        best = {measure: _best(contest, measure) for measure in RANKED}
        for place, standing in enumerate(contest.standings):
            row = [Value(text=contest.parent)] if parents else []
            row += [
                Value(text=_method_key(study, standing.of)),
                Value(text=str(standing.num)),
                Value(text=num_rows(standing.of)),
            ]
            row += [] if same_bins else [Value(text=str(standing.of.num_bins))]
            row += [_shown(standing, measure, is_best=best[measure] == place) for measure in RANKED]
            rows.append(row)
    return Table(headers=headers, num_labels=2 if parents else 1, rows=rows)


def _header(measure: str, bins: set[int]) -> str:
    name = measure.partition("/")[2]
    if name == "ece" and len(bins) == 1:
        return f"ece, {next(iter(bins))} bins"
    return {"ece_floor": "its noise floor"}.get(name, name)


def num_rows(cell: Judged) -> str:
    """How many test rows a run of the cell was judged on."""
    least, most = cell.num_rows
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _best(contest: Contest, measure: str) -> int | None:
    larger = LARGER_IS_BETTER.get(measure.partition("/")[2])
    if larger is None:
        return None
    intervals = [standing.values[measure] for standing in contest.standings]
    return clearly_best(
        [low for _, low, _ in intervals], [high for *_, high in intervals], larger_is_better=larger
    )


def _shown(standing: Standing, measure: str, *, is_best: bool) -> Value:
    text, half = shown(standing.values[measure])
    apart = standing.differences.get(measure)
    return Value(text=text, half=half, is_best=is_best, remark="" if apart is None else _signed(apart))


def shown(interval: Interval) -> tuple[str, str]:
    """A mean and its half width as text."""
    return ("infinite", "") if math.isinf(interval[0]) else formats.estimate(*interval)


def _signed(interval: Interval) -> str:
    """`-0.0123 ± 0.0040`; nothing where there is no difference to speak of."""
    if not math.isfinite(interval[0]):
        return ""
    text, half = formats.estimate(*interval)
    signed = f"{float(text):+.{len(text.partition('.')[2])}f}".replace("-", "−")  # noqa: RUF001
    return f"{signed} ± {half}" if half else signed
