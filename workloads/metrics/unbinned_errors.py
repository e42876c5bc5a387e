"""Calibration errors of the largest probability without bins: KS, smooth ECE and the balance score."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import dct

from pruneyard.workloads.metrics.probabilities import Floats, TopLabel

GRID = 2**13  # intervals of [0, 1] for the smooth error: bandwidths below about 2e-4 are not told apart


TOLERANCE = 1e-10


WAVES = np.arange(GRID + 1, dtype=np.float64)


UNDERFLOW = 746.0  # the exponential of less than minus this is 0


def kolmogorov_smirnov_error(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Largest absolute value of the running sum of confidence less correctness, by rising confidence, over n.

    It is looked at between distinct confidences only, so the order of rows never matters.
    Reference: Gupta et al. (ICLR 2021, arXiv:2006.12800).
    """
    return kolmogorov_smirnov_gap(TopLabel.of(probabilities, labels))


def kolmogorov_smirnov_gap(top: TopLabel) -> float:
    """The same of confidences."""
    rising = top.ascending()
    running = np.cumsum(rising.confidence - rising.correct)
    last_of_its_kind = np.append(rising.confidence[1:] != rising.confidence[:-1], True)
    return float(np.abs(running[last_of_its_kind]).max() / len(top))


def smooth_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, bandwidth: float | None = None
) -> float:
    """smECE: the integral over [0, 1] of |mean over rows of K(t, confidence) * (confidence - correct)|.

    K is a Gaussian of standard deviation `bandwidth` in confidence (not in its logit), reflected at 0 and 1. Without a
    bandwidth it is the one that equals the error it gives, which is unique.
    Reference: Blasiok and Nakkiran (ICLR 2024, arXiv:2309.12236).
    """
    return smooth_gap(TopLabel.of(probabilities, labels), bandwidth=bandwidth)


def smooth_gap(top: TopLabel, *, bandwidth: float | None = None) -> float:
    """The same of confidences.

    Residuals are shared between the two nearest points of a grid of 2^13 intervals. A cosine series has the reflection at both
    ends built in, and a Gaussian only damps its terms; so a bandwidth costs one transform, whatever the number of rows.
    """
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; it must be above 0")
    residual = (top.confidence - top.correct) / len(top)
    position = top.confidence * GRID
    left = np.minimum(position.astype(np.int64), GRID - 1)
    to_right = (position - left) * residual
    mass = np.bincount(left, residual - to_right, GRID + 1) + np.bincount(left + 1, to_right, GRID + 1)
    mass[[0, -1]] *= 2  # the transform halves the ends
    series = dct(mass, type=1) / 2
    if bandwidth is not None:
        return _smoothed(series, bandwidth)
    return _fixed_point(lambda width: _smoothed(series, width), low=abs(float(residual.sum())))


def _fixed_point(falling: Callable[[float], float], *, low: float) -> float:
    """Where a falling function that is nowhere below `low` equals its argument: by the Illinois rule.

    No smoothing cancels more than all residuals do together, so `low` is what they sum to, and for a network that is too sure
    everywhere that is all there is to it.
    Reference: Dowell and Jarratt, A modified regula falsi method for computing the root of an equation (BIT 11, 1971).
    """
    high = falling(low)
    below = high - low
    if below <= TOLERANCE:
        return low
    above = high - falling(high)  # both 0 or more
    moved_low = moved_high = False
    while high - low > TOLERANCE and above > 0:
        middle = (low * above + high * below) / (above + below)
        gap = falling(middle) - middle
        if abs(gap) < TOLERANCE:
            return middle
        if gap > 0:
            low, below, above = middle, gap, above / 2 if moved_low else above
        else:
            high, above, below = middle, -gap, below / 2 if moved_high else below
        moved_low, moved_high = gap > 0, gap < 0
    return high


def _smoothed(series: Floats, bandwidth: float) -> float:
    num = GRID + 1 if bandwidth == 0 else min(GRID + 1, int((2 * UNDERFLOW) ** 0.5 / (np.pi * bandwidth)) + 2)
    damped = np.zeros(GRID + 1)
    np.multiply(series[:num], np.exp(-((np.pi * bandwidth * WAVES[:num]) ** 2) / 2), out=damped[:num])
    smooth = dct(damped, type=1)
    size = np.abs(smooth)
    return float((size.sum() - (size[0] + size[-1]) / 2) / GRID)


def balance_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Accuracy less mean confidence, in [-1, 1]: negative where over-confident.

    The mean over rows of 1 - p for a right and -p for a wrong prediction. Errors of opposite sign cancel, so 0 does not mean
    calibrated. Reference: arXiv:2309.06248, for two classes; here of the largest of any number.
    """
    return balance(TopLabel.of(probabilities, labels))


def balance(top: TopLabel) -> float:
    """The same of confidences."""
    return float((top.correct - top.confidence).mean())
