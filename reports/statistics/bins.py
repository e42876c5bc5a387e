"""Chance in reliability diagrams: bands for the accuracy of bins, intervals over rows, and the error that chance alone makes."""

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


def consistency_test(
    confidence: npt.ArrayLike,
    share: npt.ArrayLike,
    count: npt.ArrayLike,
    *,
    generator: np.random.Generator,
    num_draws: int = 2_000,
) -> float:
    """Returns the p-value that a network with these bins is calibrated: how often chance alone makes an ECE as large as its own.

    confidence, share, count: `(B,)`, mean confidence, share of correct samples and number of samples of each bin. In a draw the
    number of correct samples of a bin is binomial with its mean confidence; the observed ECE counts as one more draw. A p-value
    above the level says that the ECE is at its noise floor: no evidence of miscalibration.
    Reference: Broecker and Smith, "Increasing the reliability of reliability diagrams", Weather and Forecasting 2007.
    """
    p_B, share_B = np.asarray(confidence, dtype=np.float64).clip(0, 1), np.asarray(share, dtype=np.float64)
    num_B = np.asarray(count, dtype=np.float64).round().astype(np.int64)
    if not p_B.shape == share_B.shape == num_B.shape or p_B.ndim != 1 or not len(p_B) or (num_B <= 0).any():
        raise ValueError("confidence, share and count must have one value for each bin, and every bin at least one sample")
    expected_B = p_B * num_B
    observed = np.abs(share_B * num_B - expected_B).sum()
    drawn = np.abs(generator.binomial(num_B, p_B, size=(num_draws, len(p_B))) - expected_B).sum(axis=1)
    # A draw of the observed counts must count, though its sum may be rounded otherwise. The observed one is a draw too: p > 0.
    return float(((drawn >= observed * (1 - 1e-12)).sum() + 1) / (num_draws + 1))


def row_bootstrap(
    confidence: npt.ArrayLike,
    share: npt.ArrayLike,
    count: npt.ArrayLike,
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    num_draws: int = 2_000,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns intervals of accuracy and ECE of one network over the drawing of its test rows.

    confidence, share, count: `(B,)` as for `consistency_test`. A draw has as many rows as all bins together, with replacement.
    Of the accuracy the interval is that of percentiles. Draws add chance gaps to those that the sample already has, so the ECE
    of draws is too large; its interval is the basic one, which mirrors the draws at the estimate and so takes this back, cut
    off at 0. It says nothing about other seeds.
    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 10 and 13.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie in (0, 1)")
    p_B, share_B, num_B = (np.asarray(each, dtype=np.float64) for each in (confidence, share, count))
    if not p_B.shape == share_B.shape == num_B.shape or p_B.ndim != 1 or not len(p_B) or (num_B <= 0).any():
        raise ValueError("confidence, share and count must have one value for each bin, and every bin at least one sample")
    total = num_B.sum()
    of_cells = np.concatenate([share_B * num_B, (1 - share_B) * num_B]).clip(0) / total
    drawn = generator.multinomial(max(1, round(total)), of_cells / of_cells.sum(), size=num_draws)
    right, wrong = drawn[:, : len(p_B)], drawn[:, len(p_B) :]
    accuracies = right.sum(axis=1) / round(total)
    errors = np.abs(right - p_B * (right + wrong)).sum(axis=1) / round(total)
    ece = float((num_B * np.abs(share_B - p_B)).sum() / total)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(accuracies, tails)
    below, above = np.quantile(errors, tails)
    return (float(low), float(high)), (max(0.0, 2 * ece - float(above)), max(0.0, 2 * ece - float(below)))
