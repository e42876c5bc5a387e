"""Whether a study reached a paper's number: reached, missed, or not comparable and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pruneyard.reports.claims.claim import Claim
from pruneyard.reports.glossary import LARGER_IS_BETTER
from pruneyard.reports.statistics import half_width

WIDEST = {"accuracy": 0.01, "ece": 0.005}
"""Half the width of an interval of the difference that still tells something, by metric."""


class Word(StrEnum):
    """The verdicts."""

    REACHED = "reached"
    MISSED = "missed"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The word, and what keeps the two numbers from being compared."""

    word: Word
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A cell's mean over `num` seeds with its 95% interval; NaN where there is none."""

    mean: float
    low: float
    high: float
    num: int


def verdict(claim: Claim, ours: Ours, differences: Sequence[str]) -> Verdict:
    """Judge `ours` against the claim, given how the set-ups differ.

    The interval of the difference joins ours with that of the paper's mean where a standard deviation over runs is
    reported (otherwise its number is taken as exact). Missed: all of it on the worse side of 0. Reached: none of it
    there, or 0 within an interval no wider than `WIDEST`. A wider one around 0 tells nothing.
    """
    reasons = tuple(differences) + _too_few(ours)
    if reasons:
        return Verdict(word=Word.NOT_COMPARABLE, reasons=reasons)
    ahead = ours.mean - claim.value if LARGER_IS_BETTER[claim.metric] else claim.value - ours.mean
    half = math.hypot((ours.high - ours.low) / 2, _their_half(claim))
    if ahead + half < 0:
        return Verdict(word=Word.MISSED)
    if ahead >= half or half <= WIDEST[claim.metric]:
        return Verdict(word=Word.REACHED)
    return Verdict(word=Word.NOT_COMPARABLE, reasons=(f"the difference is known to ± {half:.2g} only",))


def _too_few(ours: Ours) -> tuple[str, ...]:
    if ours.num == 0 or math.isnan(ours.mean):
        return ("no completed run",)
    return ("one seed only",) if ours.num == 1 else ()


def _their_half(claim: Claim) -> float:
    """Half the 95% interval of the paper's mean; 0 where it cannot be known."""
    if claim.spread is None or claim.spread_is != "sd" or (claim.runs or 0) < 2:
        return 0.0
    return float(half_width(claim.spread, claim.runs or 0))
