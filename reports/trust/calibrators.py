"""Comparison of calibrators on the same input runs: measures with intervals, and paired differences to no calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.glossary import LARGER_IS_BETTER, title
from pruneyard.reports.row_intervals import in_words
from pruneyard.reports.statistics.intervals import clearly_best
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value
from pruneyard.reports.trust.calibrated_cells import (
    NEUTRAL,
    CalibratedCell,
    Interval,
    mean_of,
    over_outer,
    values_of,
)

RANKED = ("test/nll", "test/ece", "test/ece_floor", "test/ece_smooth", "test/accuracy", "test/aurc")
CHOSEN_BY = ("val/nll", "calib/nll")
"""Splits that a calibrate job scores without fitting on them: a choice by the test split could not be judged on it."""

_COMPARED = ("test/nll", "test/ece", "test/ece_smooth", "test/accuracy", "test/aurc")
_FLOOR, _FLOOR_95 = "test/ece_floor", "test/ece_floor_95"
_INFINITE = (math.inf, math.inf, math.inf)
DEFAULT = "temperature"
"""The calibrator that charts show if a single seed allows no ranking."""


@dataclass(frozen=True, kw_only=True)
class ComparedCalibrator:
    """One calibrator: its measures, and their differences to `NEUTRAL` on the same runs if these exist."""

    cell: CalibratedCell
    num: int
    values: Mapping[str, Interval]
    differences: Mapping[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All calibrators on the same input runs, in the order of their mean NLL on held-out rows that are not the test split.

    chosen_by: the measure that orders them; None if some calibrator lacks it or has a single seed, which allows no order.
    """

    parent: str
    calibrators: Sequence[ComparedCalibrator]
    chosen_by: str | None

    @property
    def is_ranked(self) -> bool:
        """True if the calibrators are in an order that rests on more than one seed of each."""
        return self.chosen_by is not None

    @property
    def before(self) -> CalibratedCell | None:
        """The uncalibrated cell, if there is one."""
        return next((entry.cell for entry in self.calibrators if entry.cell.calibrator == NEUTRAL), None)

    @property
    def after(self) -> CalibratedCell | None:
        """The calibrator that charts show: the best one, or `DEFAULT` without a ranking."""
        others = [entry.cell for entry in self.calibrators if entry.cell.calibrator != NEUTRAL]
        default = [cell for cell in others if cell.calibrator == DEFAULT]
        return next(iter(others if self.is_ranked else [*default, *others]), None)


def comparisons(study: Study, cells: Sequence[CalibratedCell]) -> list[Comparison]:
    """Returns one comparison per input with several calibrators; if there is none, one per input."""
    by_base: dict[str, dict[str, CalibratedCell]] = {}
    for cell in cells:
        # Of several cells with the same calibrator and input, the first one counts.
        by_base.setdefault(cell.base, {}).setdefault(_method_key(study, cell), cell)
    several = [named for named in by_base.values() if len(named) > 1] or list(by_base.values())
    return [_comparison(study, list(named.values())) for named in several]


def _method_key(study: Study, cell: CalibratedCell) -> str:
    """Returns the calibrator with those of its options in which cells differ."""
    row = study.cells[study.cells["cell"] == cell.cell].iloc[0]
    return study.words(row, ["method", *(key for key in study.varying if key.startswith("method."))])


def _comparison(study: Study, cells: Sequence[CalibratedCell]) -> Comparison:
    neutral = next((cell for cell in cells if cell.calibrator == NEUTRAL), None)
    calibrators = [_compared(study, cell, neutral) for cell in cells]
    chosen_by = _selection_measure(study, calibrators)
    if chosen_by is None:
        # No ranking: the uncalibrated network first, the others as they came.
        calibrators.sort(key=lambda each: each.cell.calibrator != NEUTRAL)
    else:
        calibrators.sort(key=lambda each: _value(study, each.cell, chosen_by)[0])
    return Comparison(parent=cells[0].parent, calibrators=calibrators, chosen_by=chosen_by)


def _selection_measure(study: Study, calibrators: Sequence[ComparedCalibrator]) -> str | None:
    """Returns the first measure of `CHOSEN_BY` that every calibrator has, if each has more than one seed."""
    if any(entry.num < 2 for entry in calibrators):
        return None
    for measure in CHOSEN_BY:
        if not any(math.isnan(_value(study, entry.cell, measure)[0]) for entry in calibrators):
            return measure
    return None


def _compared(study: Study, cell: CalibratedCell, neutral: CalibratedCell | None) -> ComparedCalibrator:
    values = {measure: _value(study, cell, measure) for measure in (*RANKED, _FLOOR_95)}
    compared = (
        {}
        if neutral is None or neutral is cell
        else {m: _difference(study, cell, neutral, m) for m in _COMPARED}
    )
    return ComparedCalibrator(cell=cell, num=cell.runs["outer"].nunique(), values=values, differences=compared)


def _value(study: Study, cell: CalibratedCell, measure: str) -> Interval:
    """Returns the mean of a measure. A missing NLL of an evaluated run is infinite: some label had probability 0."""
    found = mean_of(study, cell, measure)
    split, _, name = measure.partition("/")
    if name != "nll" or not math.isnan(found[0]):
        return found
    is_evaluated = values_of(study, cell, f"{split}/accuracy").notna().all()
    return _INFINITE if is_evaluated else found


def _difference(study: Study, cell: CalibratedCell, neutral: CalibratedCell, measure: str) -> Interval:
    """Returns the mean of calibrated minus uncalibrated, over pairs of runs with the same parents and seed."""
    pairs = paired_values(study, cell, neutral, measure)
    return over_outer(pairs["difference"], pairs["outer"]) if len(pairs) else (math.nan, math.nan, math.nan)


def paired_values(study: Study, cell: CalibratedCell, neutral: CalibratedCell, measure: str) -> pd.DataFrame:
    """Returns calibrated minus uncalibrated of each pair of runs with the same parents and seed: `outer`, `difference`.

    The difference is NaN where one of the two values is not finite.
    """
    keys = ["parent_key", "seed"]
    sides = [
        each.runs.assign(value=values_of(study, each, measure))[[*keys, "outer", "value"]]
        for each in (cell, neutral)
    ]
    # Paired runs have the same parents, and so the same first run: one `outer` is enough.
    pairs = sides[0].merge(sides[1].drop(columns="outer"), on=keys, suffixes=("", "_before"))
    difference = (pairs["value"] - pairs["value_before"]).replace([math.inf, -math.inf], math.nan)
    return pairs.assign(difference=difference)[["outer", "difference"]]


def ranking_table(study: Study, found: Sequence[Comparison]) -> Table:
    """Returns one row per calibrator and input."""
    parents = any(comparison.parent for comparison in found)
    bins = {entry.cell.num_bins for comparison in found for entry in comparison.calibrators}
    same_bins = len(bins) == 1
    headers = [*(["input"] if parents else []), "calibrator", "seeds", "samples"]
    headers += [] if same_bins else ["bins"]
    headers += [_header(measure, bins) for measure in RANKED]
    rows = []
    over_rows = study.row_intervals
    for comparison in found:
        best = {measure: _best(comparison, measure) for measure in RANKED}
        for place, entry in enumerate(comparison.calibrators):
            row = [Value(text=comparison.parent)] if parents else []
            row += [
                Value(text=_method_key(study, entry.cell)),
                Value(text=str(entry.num)),
                Value(text=num_rows(entry.cell)),
            ]
            row += [] if same_bins else [Value(text=str(entry.cell.num_bins))]
            row += [
                _shown(entry, measure, is_best=best[measure] == place, over_rows=over_rows.get((entry.cell.cell, measure)))
                for measure in RANKED
            ]
            rows.append(row)
    of_rows = [[entry.cell.cell] for comparison in found for entry in comparison.calibrators]
    return Table(headers=headers, num_labels=2 if parents else 1, rows=rows, cells=of_rows).without_empty_columns()


def _header(measure: str, bins: set[int]) -> str:
    name = measure.partition("/")[2]
    if name == "ece" and len(bins) == 1:
        return f"ECE ({next(iter(bins))} bins)"
    return "noise floor of ECE" if name == "ece_floor" else title(name)


def num_rows(cell: CalibratedCell) -> str:
    """Returns the number of test samples of a run of the cell, or the range over its runs."""
    least, most = cell.num_rows
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _best(comparison: Comparison, measure: str) -> int | None:
    larger = LARGER_IS_BETTER.get(measure.partition("/")[2])
    if larger is None:
        return None
    intervals = [entry.values[measure] for entry in comparison.calibrators]
    return clearly_best(
        [low for _, low, _ in intervals], [high for *_, high in intervals], larger_is_better=larger
    )


def _shown(entry: ComparedCalibrator, measure: str, *, is_best: bool, over_rows: tuple[float, float] | None = None) -> Value:
    text, half = shown(entry.values[measure])
    if measure == _FLOOR:
        high = shown(entry.values[_FLOOR_95])[0]
        return Value(text=text, half=half, remark="" if math.isnan(entry.values[_FLOOR_95][0]) else f"95%: {high}")
    difference = entry.differences.get(measure)
    remarks = ["" if difference is None else _signed(difference), in_words(over_rows)]
    return Value(text=text, half=half, is_best=is_best, remark="; ".join(filter(None, remarks)))


def shown(interval: Interval) -> tuple[str, str]:
    """Returns a mean and its half width as text."""
    return ("infinite", "") if math.isinf(interval[0]) else formats.estimate(*interval)


def _signed(interval: Interval) -> str:
    """Returns a signed difference, `−0.0123 ± 0.0040`, `unchanged` if every pair is equal; an empty text if it is not finite."""
    if not math.isfinite(interval[0]):
        return ""
    if not any(interval):
        return "unchanged"
    text, half = formats.estimate(*interval)
    signed = f"{float(text):+.{len(text.partition('.')[2])}f}".replace("-", "−")  # noqa: RUF001
    return f"{signed} ± {half}" if half else signed
