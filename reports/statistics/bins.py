"""Chance in reliability diagrams: bands for the accuracy of bins, and the calibration error that chance alone makes."""

import numpy as np
import numpy.typing as npt
from scipy import stats

from pruneyard.reports.statistics.intervals import Floats


def bootstrap_band(
    share: npt.ArrayLike, num: npt.ArrayLike, *, level: float = 0.95, num_draws: int = 1000, seed: int = 0
) -> tuple[Floats, Floats]:
    """Returns the ends, each `(B,)`, of a percentile bootstrap interval of the share of correct samples in every bin.

    share, num: `(B,)`, the share of correct samples and the number of samples of each bin; the latter need not be whole.
    A draw has as many samples as all bins together, with replacement, so the sizes of bins vary too. Only the numbers of
    correct and wrong samples per bin matter, and these are multinomial, so they are sampled directly. Draws that leave a bin
    empty do not count for it. If all samples of a bin are correct, or all are wrong, draws do not differ: the interval then
    ends at the probability at which so many samples would all agree in (1 - level) / 2 of all cases.
    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; Clopper and Pearson, Biometrika 1934.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie in (0, 1)")
    share_B, num_B = np.asarray(share, dtype=np.float64), np.asarray(num, dtype=np.float64)
    if share_B.shape != num_B.shape or share_B.ndim != 1 or not len(share_B):
        raise ValueError("share and num must have one value for each bin, and there must be at least one bin")
    if not ((share_B >= 0) & (share_B <= 1)).all() or not (num_B > 0).all():
        raise ValueError("share must lie in [0, 1] and num be above 0")
    of_cells = np.concatenate([share_B * num_B, (1 - share_B) * num_B]) / num_B.sum()
    num_rows = max(1, round(num_B.sum()))
    # Divided by the sum once more, because numpy refuses probabilities whose sum exceeds 1 by rounding.
    drawn = np.random.default_rng(seed).multinomial(num_rows, of_cells / of_cells.sum(), size=num_draws)
    right, wrong = drawn[:, : len(num_B)], drawn[:, len(num_B) :]
    with np.errstate(invalid="ignore"):
        # 0 / 0 for a bin that a draw leaves empty; such draws do not count.
        shares = right / (right + wrong)
    # A bin that no draw reached has only its own share; `nanquantile` would warn.
    shares = np.where(np.isnan(shares).all(axis=0), share_B, shares)
    tail = (1 - level) / 2
    low, high = np.nanquantile(shares, [tail, 1 - tail], axis=0)
    # The probability p at which all of n samples agree in a share `tail` of cases: p^n = tail.
    end = tail ** (1 / num_B)
    return np.where(share_B == 1, end, low), np.where(share_B == 0, 1 - end, high)


def floor_of_bins(confidence: npt.ArrayLike, count: npt.ArrayLike) -> float:
    """Returns the expected calibration error of a perfectly calibrated network with these bins; see `chance_gaps`."""
    counts = np.asarray(count, dtype=np.float64)
    return float(chance_gaps(confidence, count).sum() / counts.sum())


def chance_gaps(confidence: npt.ArrayLike, count: npt.ArrayLike) -> Floats:
    """Returns the expected gap of a perfectly calibrated network in each bin, in samples: `(B,)`.

    confidence, count: `(B,)`, mean confidence and number of samples of each bin. A gap is the mean distance of a binomial count
    from its expectation. All samples of a bin count as if they had its mean confidence, which makes the result slightly too
    large. Reference: de Moivre's mean deviation, as in Diaconis and Zabell, "Closed form summation for classical
    distributions", Statistical Science 1991.
    """
    p, n = np.asarray(confidence, dtype=np.float64), np.asarray(count, dtype=np.float64)
    if p.shape != n.shape or p.ndim != 1 or not len(p) or (n <= 0).any() or ((p < 0) | (p > 1)).any():
        raise ValueError("bins must have confidences in [0, 1] and counts above 0, as many of these as of those")
    above = np.floor(n * p) + 1  # the least count above the mean
    gaps: Floats = np.where(above <= n, 2 * above * (1 - p) * stats.binom.pmf(above, n, p), 0.0)
    return gaps
