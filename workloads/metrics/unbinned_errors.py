"""Calibration errors of the largest probability that need no bins: KS, smooth ECE and the balance score."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.metrics.probabilities import Floats, TopLabel

GRID = 2**13  # intervals of [0, 1] for the smooth error: bandwidths below about 2e-4 cannot be distinguished
FREQUENCIES = np.arange(GRID + 1, dtype=np.float64)  # of the cosine series
TOLERANCE = 1e-10  # of the fixed point of the bandwidth
UNDERFLOW = 746.0  # exp(x) is 0 in float64 for x below -746


def kolmogorov_smirnov_error(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Returns the largest absolute running sum of confidence minus correctness, by rising confidence, divided by n.

    The sum is evaluated between distinct confidences only, so the result does not depend on the order of rows.
    Reference: Gupta et al. (ICLR 2021, arXiv:2006.12800).
    """
    return kolmogorov_smirnov_gap(TopLabel.from_probabilities(probabilities, labels))


def kolmogorov_smirnov_gap(top: TopLabel) -> float:
    """Returns the Kolmogorov-Smirnov error of confidences and correctness."""
    rising = top.ascending()
    running = np.cumsum(rising.confidence - rising.correct)
    is_last_of_equal = np.append(rising.confidence[1:] != rising.confidence[:-1], True)
    return float(np.abs(running[is_last_of_equal]).max() / len(top))


def smooth_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, bandwidth: float | None = None
) -> float:
    """Returns smECE: the integral over [0, 1] of |mean over rows of K(t, confidence) * (confidence - correct)|.

    K is a Gaussian with standard deviation `bandwidth` in confidence (not in its logit), reflected at 0 and 1. By default the
    bandwidth is the unique one that equals the resulting error.
    Reference: Blasiok and Nakkiran (ICLR 2024, arXiv:2309.12236).
    """
    return smooth_gap(TopLabel.from_probabilities(probabilities, labels), bandwidth=bandwidth)


def smooth_gap(top: TopLabel, *, bandwidth: float | None = None) -> float:
    """Returns the smooth calibration error of confidences and correctness.

    Residuals are distributed to the two nearest points of a grid of 2^13 intervals. A cosine series implies the reflection at
    both ends, and a Gaussian only damps its terms. So each bandwidth costs one transform, whatever the number of rows.
    """
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; it must be above 0")
    residual = (top.confidence - top.correct) / len(top)
    position = top.confidence * GRID
    # A confidence of exactly 1 belongs to the last interval, with all of its mass on the right end.
    left = np.minimum(position.astype(np.int64), GRID - 1)
    to_right = (position - left) * residual
    mass = np.bincount(left, residual - to_right, GRID + 1) + np.bincount(left + 1, to_right, GRID + 1)
    mass[[0, -1]] *= 2  # the type-I transform weights both ends by one half
    # The transform counts inner points twice.
    series = _cosine_transform(mass) / 2
    if bandwidth is not None:
        return _smoothed_error(series, bandwidth)
    return _fixed_point(lambda width: _smoothed_error(series, width), low=abs(float(residual.sum())))


def _fixed_point(falling: Callable[[float], float], *, low: float) -> float:
    """Finds where a decreasing function with lower bound `low` equals its argument, by the Illinois method.

    The absolute sum of all residuals is a lower bound of the smooth error for every bandwidth. For a network that is
    over-confident everywhere the error equals this bound.
    Reference: Dowell and Jarratt, A modified regula falsi method for computing the root of an equation (BIT 11, 1971).
    """
    # The function decreases, so its value at a lower bound of the fixed point is an upper bound.
    high = falling(low)
    below = high - low
    if below <= TOLERANCE:
        return low
    # `below` and `above` are the distances from the diagonal at both ends of the bracket.
    above = high - falling(high)  # both 0 or more
    moved_low = moved_high = False
    while high - low > TOLERANCE and above > 0:
        # Where the line between both ends crosses zero.
        middle = (low * above + high * below) / (above + below)
        gap = falling(middle) - middle
        if abs(gap) < TOLERANCE:
            return middle
        # Illinois: if the same end moves twice, the value at the other one is halved, or that end would never move.
        if gap > 0:
            low, below, above = middle, gap, above / 2 if moved_low else above
        else:
            high, above, below = middle, -gap, below / 2 if moved_high else below
        moved_low, moved_high = gap > 0, gap < 0
    return high


def _cosine_transform(values: NDArray[Any]) -> Floats:
    """Returns the type-I discrete cosine transform, as `scipy.fft.dct` does, which takes a fifth of a second to import."""
    transform: Floats = np.fft.rfft(np.concatenate([values, values[-2:0:-1]])).real
    return transform


def _smoothed_error(series: Floats, bandwidth: float) -> float:
    """Returns the integral of the absolute value of the smoothed residuals, given their cosine series."""
    # The Gaussian of all later frequencies underflows to 0, so they are skipped.
    num = GRID + 1 if bandwidth == 0 else min(GRID + 1, int((2 * UNDERFLOW) ** 0.5 / (np.pi * bandwidth)) + 2)
    damped = np.zeros(GRID + 1)
    np.multiply(series[:num], np.exp(-((np.pi * bandwidth * FREQUENCIES[:num]) ** 2) / 2), out=damped[:num])
    smooth = _cosine_transform(damped)
    size = np.abs(smooth)
    # Trapezoid rule: both ends count one half.
    return float((size.sum() - (size[0] + size[-1]) / 2) / GRID)


def balance_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Returns accuracy minus mean confidence, in [-1, 1]: negative if over-confident.

    This is the mean over rows of 1 - p for a correct and -p for a wrong prediction. Errors of opposite sign cancel, so 0 does
    not imply calibration. Reference: arXiv:2309.06248, for two classes; here for the largest probability of any number.
    """
    return balance(TopLabel.from_probabilities(probabilities, labels))


def balance(top: TopLabel) -> float:
    """Returns the balance score of confidences and correctness."""
    return float((top.correct - top.confidence).mean())
