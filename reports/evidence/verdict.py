"""The verdict on a claim: does the effect appear, and if not, did the mechanism act? Rules over numbers, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pruneyard.reports.evidence.claim import Published

MIN_PAIRS = 3
LEVEL = 0.05
"""An effect is clear where its p-value, corrected for all rows of the claim, is below it."""
WEAK = 0.5
"""Below this share of the published gain an effect appears weakly."""


class Verdict(StrEnum):
    """The verdicts, the strongest first."""

    APPEARS = "appears"
    WEAKLY = "appears weakly"
    ABSENT = "does not appear though the mechanism acts"
    INERT = "mechanism inert under published settings"
    NOT_COMPARABLE = "not comparable at this size"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The change of the measure against the base method, paired by seed, with its 95% interval; `relative` to the base's mean."""

    num_pairs: int
    base: float
    method: float
    difference: float
    low: float
    high: float
    p_corrected: float = math.nan
    num_missing: int = 0  # further pairs of completed runs, of which one has no finite value

    def in_unit(self, value: float, published: Published) -> float:
        """Returns a difference in the unit of the published gain; NaN where the base method's mean is 0."""
        if published.unit == "points":
            return value
        return value / abs(self.base) if self.base else math.nan


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A measure that the claim says is kept, and by how much it surely gets worse; 0 if it does not."""

    measure: str
    worse_by: float
    allowed: float


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict, and what it rests on in words."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def judge(
    effect: Effect,
    acts: bool | None,
    *,
    published: Published,
    rises: bool,
    kept: Sequence[Kept] = (),
    as_published: bool,
) -> Judgement:
    """Returns the verdict on one comparison.

    acts: whether the mechanism does; None where its interval contains the threshold, or where it was not measured. In this order:

    - fewer than `MIN_PAIRS` pairs, or a pair without a finite value: not comparable.
    - The mechanism does not act: inert with the published settings, and not comparable with others.
    - The effect is clear in the claimed direction: it appears; weakly, if a measure that should be kept surely gets worse, or if
      it is less than `WEAK` times the published gain.
    - Otherwise it does not appear, if the mechanism acts and the effect is clear in the other direction or the interval does not
      contain the published gain; else it is not comparable.
    """
    if effect.num_pairs < MIN_PAIRS:
        return Judgement(verdict=Verdict.NOT_COMPARABLE, reasons=(f"{effect.num_pairs} common seeds; {MIN_PAIRS} are needed",))
    if effect.num_missing:
        reason = f"{effect.num_missing} of {effect.num_pairs + effect.num_missing} pairs have no finite value"
        return Judgement(verdict=Verdict.NOT_COMPARABLE, reasons=(reason,))
    forward = effect.difference if rises else -effect.difference
    is_clear = forward > 0 and effect.p_corrected < LEVEL
    if acts is False:
        inert = Verdict.INERT if as_published else Verdict.NOT_COMPARABLE
        reasons = [] if as_published else ["the mechanism does not act in this setting"]
        return Judgement(verdict=inert, reasons=(*reasons, *(["yet the measure changes as claimed"] if is_clear else [])))
    if is_clear:
        costs = [each for each in kept if each.worse_by > each.allowed]
        weak = [f"{each.measure} gets worse by at least {each.worse_by:.2g}" for each in costs]
        gain = None if published.gain is None else abs(published.gain)
        if gain is not None and effect.in_unit(forward, published) < WEAK * gain:
            weak.append(f"{effect.in_unit(forward, published):.2g} of the published {gain:g}")
        return Judgement(verdict=Verdict.WEAKLY if weak else Verdict.APPEARS, reasons=tuple(weak))
    if acts is None:
        return Judgement(verdict=Verdict.NOT_COMPARABLE, reasons=("it is not known whether the mechanism acts",))
    if forward < 0 and effect.p_corrected < LEVEL:
        return Judgement(verdict=Verdict.ABSENT, reasons=("the effect is clear in the other direction",))
    if published.gain is None:
        reason = "the effect is not clear, and no gain was published that it could be held to"
        return Judgement(verdict=Verdict.NOT_COMPARABLE, reasons=(reason,))
    low, high = (effect.in_unit(end, published) for end in (effect.low, effect.high))
    if low <= published.gain <= high:
        reason = "the interval contains the published gain, but the effect is not clear"
        return Judgement(verdict=Verdict.NOT_COMPARABLE, reasons=(reason,))
    return Judgement(verdict=Verdict.ABSENT)
