"""Means over seeds with intervals, as functions on arrays.

Axis legend: S = seeds, the unit of replication; leading axes are kept.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean, standard deviation and interval over seeds. On one seed `sd`, `low` and `high` are NaN."""

    num: int
    mean: Floats
    sd: Floats
    low: Floats
    high: Floats


def estimate(values: npt.ArrayLike, *, level: float = 0.95) -> Estimate:
    """Estimates the mean of `values: (..., S)` over its last axis. A NaN among the seeds gives NaN."""
    values_S = np.asarray(values, dtype=np.float64)
    num = values_S.shape[-1]
    if num == 0:
        raise ValueError(f"values have shape {values_S.shape}; there must be at least one seed")
    mean = values_S.mean(axis=-1)
    with np.errstate(invalid="ignore"):  # the deviation of values that are not all finite is NaN
        sd = values_S.std(axis=-1, ddof=1) if num > 1 else np.full_like(mean, np.nan)
    half = half_width(sd, num, level=level)
    return Estimate(num=num, mean=mean, sd=sd, low=mean - half, high=mean + half)


def half_width(sd: npt.ArrayLike, num: npt.ArrayLike, *, level: float = 0.95) -> Floats:
    """Returns half the width of the t interval for a mean of `num` values with deviation `sd`; NaN if num < 2.

    Reference: Student, "The probable error of a mean", Biometrika 1908.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie in (0, 1)")
    counts = np.asarray(num, dtype=np.float64)
    # NaN instead of 1, so that one seed gives no interval instead of a division by zero.
    several = np.where(counts > 1, counts, np.nan)
    return np.asarray(
        special.stdtrit(several - 1, (1 + level) / 2) * np.asarray(sd) / np.sqrt(several), dtype=np.float64
    )


def clearly_best(low: npt.ArrayLike, high: npt.ArrayLike, *, larger_is_better: bool) -> int | None:
    """Returns the index of the interval that lies beyond all others, or None.

    Returns None for fewer than two intervals or a missing one: nothing is ranked on one seed. Requiring disjoint 95%
    intervals is stricter than a test at 5%, and becomes stricter with more intervals.
    """
    lows, highs = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if not larger_is_better:
        # Mirrored at 0, which also swaps the ends of each interval.
        lows, highs = -highs, -lows
    if len(lows) < 2 or np.isnan(lows).any() or np.isnan(highs).any():
        return None
    best = int(lows.argmax())
    return best if lows[best] > np.delete(highs, best).max() else None
