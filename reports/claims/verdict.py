"""The verdict on a published number: reached, missed, or not comparable with reasons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pruneyard.reports.claims.claim import Claim
from pruneyard.reports.glossary import LARGER_IS_BETTER
from pruneyard.reports.statistics.intervals import half_width

WIDEST = {"accuracy": 0.01, "ece": 0.005}
"""Largest half width of the interval of a difference that still allows a verdict, by metric."""


class Word(StrEnum):
    """The verdicts."""

    REACHED = "reached"
    MISSED = "missed"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict, and the reasons why two numbers cannot be compared."""

    word: Word
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A cell's mean over `num` seeds with its 95% interval; NaN if missing."""

    mean: float
    low: float
    high: float
    num: int


def verdict(claim: Claim, ours: Ours, differences: Sequence[str]) -> Verdict:
    """Compares `ours` with the claim, given the differences of their setups.

    The interval of the difference combines our interval with that of the published mean if a standard deviation over runs is
    published; otherwise the published number counts as exact. Missed: the interval lies entirely on the worse side of 0.
    Reached: none of it does, or it contains 0 and its half width is at most `WIDEST`. A wider interval around 0 is inconclusive.
    """
    reasons = tuple(differences) + _too_few(ours)
    if reasons:
        return Verdict(word=Word.NOT_COMPARABLE, reasons=reasons)
    ahead = ours.mean - claim.value if LARGER_IS_BETTER[claim.metric] else claim.value - ours.mean
    # The half widths of independent means add up in squares.
    half = math.hypot((ours.high - ours.low) / 2, _their_half(claim))
    if ahead + half < 0:
        return Verdict(word=Word.MISSED)
    if ahead >= half or half <= WIDEST[claim.metric]:
        return Verdict(word=Word.REACHED)
    return Verdict(word=Word.NOT_COMPARABLE, reasons=(f"the difference is only known to ± {half:.2g}",))


def _too_few(ours: Ours) -> tuple[str, ...]:
    if ours.num == 0 or math.isnan(ours.mean):
        return ("no completed run",)
    return ("only one seed",) if ours.num == 1 else ()


def _their_half(claim: Claim) -> float:
    """Returns half the width of the 95% interval of the published mean; 0 if it cannot be computed."""
    if claim.spread is None or claim.spread_is != "sd" or (claim.runs or 0) < 2:
        return 0.0
    return float(half_width(claim.spread, claim.runs or 0))
