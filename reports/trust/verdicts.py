"""Puts a comparison of calibrators into sentences: which one beats no calibration, and whose ECE is at its noise floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.glossary import LARGER_IS_BETTER, title
from pruneyard.reports.statistics.bins import consistency_test
from pruneyard.reports.statistics.differences import holm, t_test
from pruneyard.reports.study import Study
from pruneyard.reports.trust.calibrated_cells import NEUTRAL, CalibratedCell
from pruneyard.reports.trust.calibrators import Comparison, paired_values

JUDGED = ("test/nll", "test/ece")
"""The measures in which calibrators are tested against none."""
LEVEL = 0.05
MAX_NAMED = 6
MAX_SHORT = 3
"""Calibrators that a short verdict names."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A sentence that names calibrators, and one that fits on a line."""

    text: str
    short: str


@dataclass(frozen=True, kw_only=True)
class _Test:
    """One calibrator against none on one input: the measure, the mean difference over pairs, and its p-value."""

    place: int  # of the comparison
    calibrator: str
    measure: str
    difference: float
    num_pairs: int
    p_value: float


def verdicts(study: Study, found: Sequence[Comparison]) -> list[Verdict]:
    """Returns one verdict for each measure of `JUDGED`, and one on the noise floor, as far as the study has their numbers."""
    tests = [test for place, each in enumerate(found) for test in _tests(study, place, each)]
    corrected = holm([test.p_value for test in tests]).tolist()
    sentences = [_against_none(measure, found, tests, corrected) for measure in JUDGED]
    return [verdict for verdict in [*sentences, at_the_floor(study, found)] if verdict is not None]


def consistency_p_values(study: Study, cell: CalibratedCell) -> list[float]:
    """Returns the p-value of `consistency_test` for the ECE of every run of the cell that recorded its bins."""
    bins = study.test_bins
    own = bins[bins["run_key"].isin(cell.runs.index)]
    generator = np.random.default_rng(0)
    return [
        consistency_test(each["x"], each["y"].clip(0, 1), each["count"], generator=generator)
        for _, each in own.groupby("run_key", sort=False)
    ]


def combined(p_values: Sequence[float]) -> float:
    """Returns one p-value for all runs: twice their median, at most 1; NaN without any.

    The runs are judged on the same rows, so their p-values depend on each other. Twice the median holds for any dependence.
    Reference: Rueger, "Das maximale Signifikanzniveau des Tests", Metrika 1978.
    """
    return min(1.0, 2 * float(np.median(p_values))) if len(p_values) > 1 else p_values[0] if len(p_values) else math.nan


def at_the_floor(study: Study, found: Sequence[Comparison]) -> Verdict | None:
    """Returns which calibrators' ECE chance alone would explain; None without recorded bins."""
    judged: list[tuple[str, float]] = []
    for each in found:
        for entry in each.calibrators:
            p_value = combined(consistency_p_values(study, entry.cell))
            if not math.isnan(p_value):
                judged.append((_named(each, entry.cell, found), p_value))
    if not judged:
        return None
    corrected = holm([p_value for _, p_value in judged])
    names = [name for (name, _), p_value in zip(judged, corrected, strict=True) if p_value >= LEVEL]
    least = min((p_value for p_value in corrected if p_value >= LEVEL), default=math.nan)
    if not names:
        text = "No calibrator's ECE is at the noise floor: chance explains none of them (consistency test, p < 0.05, Holm)."
        return Verdict(text=text, short=text)
    test = f"(consistency test, p {'=' if least == 1 or len(names) == 1 else '≥'} {least:.2g}, Holm)."
    if len(names) == len(judged) > 1:
        text = f"No evidence of miscalibration for any of the {len(judged)}: every ECE is at the noise floor {test}"
        return Verdict(text=text, short=text)
    short = f"No evidence of miscalibration for {len(names)} of {len(judged)}, whose ECE is at the noise floor {test}"
    # The fewer are named.
    others = [name for (name, _), p_value in zip(judged, corrected, strict=True) if p_value < LEVEL]
    told = f"These are: {formats.listed(names, limit=MAX_NAMED)}."
    if len(others) < len(names):
        told = f"Above it: {formats.listed(others, limit=MAX_NAMED)}."
    return Verdict(text=f"{short} {told}", short=short)


def _named(comparison: Comparison, cell: CalibratedCell, found: Sequence[Comparison]) -> str:
    return f"{cell.calibrator} ({comparison.parent})" if len(found) > 1 and comparison.parent else cell.calibrator


def _tests(study: Study, place: int, comparison: Comparison) -> list[_Test]:
    neutral = comparison.before
    if neutral is None:
        return []
    tests = []
    for measure in JUDGED:
        for entry in comparison.calibrators:
            if entry.cell is not neutral:
                pairs = paired_values(study, entry.cell, neutral, measure)
                # Pairs that rest on the same first run count as one.
                every: pd.Series[float] = pairs["difference"].groupby(pairs["outer"]).mean(skipna=False)
                differences = every.dropna()
                tests.append(
                    _Test(
                        place=place,
                        calibrator=entry.cell.calibrator,
                        measure=measure,
                        difference=float(differences.mean()),
                        num_pairs=len(differences),
                        # The NLL of a run may be infinite: without it the others say nothing.
                        p_value=t_test(differences) if len(differences) == len(every) else math.nan,
                    )
                )
    return tests


def _against_none(
    measure: str, found: Sequence[Comparison], tests: Sequence[_Test], corrected: Sequence[float]
) -> Verdict | None:
    own = [(test, p_value) for test, p_value in zip(tests, corrected, strict=True) if test.measure == measure and test.num_pairs]
    name = title(measure.partition("/")[2])
    if not own:
        return None
    if all(test.num_pairs < 2 for test, _ in own):
        text = f"Test {name}: one seed per calibrator, so there is no evidence that one beats {NEUTRAL}."
        return Verdict(text=text, short=text)
    num_inputs = len({test.place for test, _ in own})
    better, worse = ({}, {})  # type: dict[str, int], dict[str, int]
    for test, p_value in own:
        if p_value < LEVEL:
            side = better if (test.difference > 0) == LARGER_IS_BETTER[measure.partition("/")[2]] else worse
            side[test.calibrator] = side.get(test.calibrator, 0) + 1
    how = f"paired by run, Holm over {len(tests)} comparisons"
    start = f"Nothing beats {NEUTRAL} in test {name} ({how})"
    first = start
    if better:
        start = f"Test {name} is better than with {NEUTRAL} for {_counts(better, num_inputs)} ({how})"
        first = f"Test {name} is better than with {NEUTRAL} for {_counts(better, num_inputs, limit=MAX_SHORT)} ({how})"
    tried = dict.fromkeys(test.calibrator for test, _ in own)
    alike = [each for each in tried if each not in better and each not in worse]
    rest = [f"worse for {_counts(worse, num_inputs)}"] if worse else []
    rest += [f"no evidence for {formats.listed(alike, limit=MAX_NAMED)}"] if alike else []
    harm = [f"worse for {_counts(worse, num_inputs, limit=MAX_SHORT)}"] if worse else []
    return Verdict(text=f"{'; '.join([start, *rest])}.", short=f"{'; '.join([first, *harm])}.")


def _counts(counted: dict[str, int], num_inputs: int, *, limit: int = MAX_NAMED) -> str:
    """Returns calibrators, the most frequent first, with the number of inputs where there are several."""
    ordered = sorted(counted, key=lambda name: -counted[name])
    texts = [name if num_inputs == 1 else f"{name} ({counted[name]})" for name in ordered]
    if num_inputs > 1:
        texts[0] = f"{ordered[0]} (on {counted[ordered[0]]} of {num_inputs} inputs)"
    return formats.listed(texts, limit=limit)
