"""Means over seeds and how far to trust them. Functions on arrays; they know neither files nor plots.

Axis legend: S = seeds, the unit of replication; anything before it is kept.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

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
    """Estimate the mean of `values: (..., S)` over its last axis. A NaN among the seeds gives NaN."""
    values_S = np.asarray(values, dtype=np.float64)
    num = values_S.shape[-1]
    if num == 0:
        raise ValueError(f"values have shape {values_S.shape}; there must be at least one seed")
    mean = values_S.mean(axis=-1)
    sd = values_S.std(axis=-1, ddof=1) if num > 1 else np.full_like(mean, np.nan)
    half = half_width(sd, num, level=level)
    return Estimate(num=num, mean=mean, sd=sd, low=mean - half, high=mean + half)


def half_width(sd: npt.ArrayLike, num: npt.ArrayLike, *, level: float = 0.95) -> Floats:
    """Half the width of the t interval for a mean of `num` values with deviation `sd`; NaN if num < 2.

    Reference: Student, "The probable error of a mean", Biometrika 1908.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie in (0, 1)")
    counts = np.asarray(num, dtype=np.float64)
    several = np.where(counts > 1, counts, np.nan)
    return np.asarray(
        stats.t.ppf((1 + level) / 2, several - 1) * np.asarray(sd) / np.sqrt(several), dtype=np.float64
    )


def clearly_best(low: npt.ArrayLike, high: npt.ArrayLike, *, larger_is_better: bool) -> int | None:
    """The position whose interval lies beyond all others, if there is one.

    None for fewer than two intervals or when one is missing: nothing is ranked on one seed. Two 95% intervals
    that do not even touch ask for more than a test at 5%, and with more intervals the rule grows stricter.
    """
    lows, highs = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if not larger_is_better:
        lows, highs = -highs, -lows
    if len(lows) < 2 or np.isnan(lows).any() or np.isnan(highs).any():
        return None
    best = int(lows.argmax())
    return best if lows[best] > np.delete(highs, best).max() else None


def wilson(share: npt.ArrayLike, num: npt.ArrayLike, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Ends of the score interval of a probability of which `share` of `num` independent trials came true.

    Reference: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie in (0, 1)")
    p, n = np.asarray(share, dtype=np.float64), np.asarray(num, dtype=np.float64)
    if ((p < 0) | (p > 1)).any() or (n <= 0).any():
        raise ValueError("share must lie in [0, 1] and num be above 0")
    squared = float(stats.norm.ppf((1 + level) / 2)) ** 2
    centre = (p + squared / (2 * n)) / (1 + squared / n)
    half = np.sqrt(squared * (p * (1 - p) / n + squared / (4 * n**2))) / (1 + squared / n)
    return np.asarray(np.maximum(centre - half, 0.0)), np.asarray(np.minimum(centre + half, 1.0))


def floor_of_bins(confidence: npt.ArrayLike, count: npt.ArrayLike) -> float:
    """The expected calibration error that perfect calibration would show: bins of `count` rows, mean confidences `confidence`.

    The mean distance of a binomial share from its probability, weighted by rows. Rows of a bin count as if all had its mean
    confidence, which makes it slightly too large. Reference: de Moivre's mean deviation, as in Diaconis and Zabell,
    "Closed form summation for classical distributions", Statistical Science 1991.
    """
    p, n = np.asarray(confidence, dtype=np.float64), np.asarray(count, dtype=np.float64)
    if p.shape != n.shape or p.ndim != 1 or not len(p) or (n <= 0).any() or ((p < 0) | (p > 1)).any():
        raise ValueError("bins must have confidences in [0, 1] and counts above 0, as many of these as of those")
    above = np.floor(n * p) + 1  # the least count above the mean
    deviation = np.where(above <= n, 2 * above * (1 - p) * stats.binom.pmf(above, n, p), 0.0)  # of the count, in rows
    return float(deviation.sum() / n.sum())
