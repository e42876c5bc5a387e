"""Fits the temperature that minimises the negative log-likelihood, by a bracketed root search that cannot diverge.

With b = 1 / T the mean NLL, of logsumexp(b z) - b z_y, is convex in b; its slope is mean(E_b[z] - z_y), where E_b is
the mean under softmax(b z), and never decreases; its curvature is the mean variance. The search for the root of the slope is over
log b, with Newton steps inside the bracket and bisection otherwise.

The bracket is relative to the scale of the logits, so logits times s have s times the temperature: with g the mean gap
between a row's largest logit and its others (the largest itself counted, as 0), T lies in [g / LIMIT, g * LIMIT].
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pruneyard.workloads.calibrate.calibrator import Floats, Labels

LIMIT = 1e4  # at g / LIMIT predictions are one-hot, at g * LIMIT uniform, to four digits
BLOCK = 65_536  # elements per block, which fit in the cache of a core
CLOSE = 1e-9  # in log b; the error after this Newton step is of the order of its square
MAX_NEWTON, MAX_STEPS = 30, 100  # after MAX_NEWTON steps only bisection, 70 times, to the last digit

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some rows of logits minus each row's maximum: `gaps: (C, R)`, none above 0, and `at_label: (R,)`."""

    gaps: Floats
    at_label: Floats


Blocks = Callable[[], Iterable[Block]]  # returns the same rows at every call


@dataclass(frozen=True, kw_only=True)
class TemperatureFit:
    """The fitted temperature. `at_bound` is 0 at a minimum, 1 if the NLL still falls at the highest allowed temperature, -1 if
    it still falls at the lowest.
    """

    temperature: float
    at_bound: int


def blocks_of(logits_NC: Floats, labels_N: Labels) -> Iterator[Block]:
    """Yields blocks of logits with classes first, so that sums over classes run over contiguous memory."""
    size = max(1, BLOCK // logits_NC.shape[1])
    for start in range(0, len(labels_N), size):
        yield block_of(
            np.ascontiguousarray(logits_NC[start : start + size].T), labels_N[start : start + size]
        )


def block_of(logits_CR: Floats, labels_R: Labels) -> Block:
    """Returns the block of logits `(C, R)` and labels `(R,)`."""
    gaps_CR = logits_CR - logits_CR.max(axis=0)
    return Block(gaps=gaps_CR, at_label=gaps_CR[labels_R, np.arange(len(labels_R))])


def fit_temperature(logits_NC: Floats, labels_N: Labels, *, warn: bool = True) -> TemperatureFit:
    """Fits the temperature of validated logits `(N, C)` and labels `(N,)`; `warn=False` logs at debug level."""
    blocks = list(blocks_of(logits_NC, labels_N))
    return fit_temperature_of(lambda: blocks, warn=warn)


def fit_temperature_of(blocks: Blocks, *, warn: bool = True) -> TemperatureFit:
    """Fits the temperature of rows that come in blocks.

    If every label has the largest logit, the NLL falls as T approaches 0. Such rows carry no information about the confidence
    of rows with errors, so T stays 1. If the logits predict the labels no better than equal logits, the NLL falls as T grows,
    and T is the upper bound. Both cases log a warning. If logits are equal within every row, the NLL does not depend on T, and
    T is 1.
    """
    report = log.warning if warn else log.debug
    num_rows, num_gaps, sum_of_gaps, sum_at_label = 0, 0, 0.0, 0.0
    for block in blocks():
        num_rows += block.gaps.shape[1]
        num_gaps += block.gaps.size
        sum_of_gaps += float(block.gaps.sum())
        sum_at_label += float(block.at_label.sum())
    scale, mean_at_label = -sum_of_gaps / num_gaps, sum_at_label / num_rows
    if scale == 0:
        return TemperatureFit(temperature=1.0, at_bound=0)
    if mean_at_label == 0:
        report("every label has the largest logit: the NLL has no minimum, so T stays 1; use more rows for fitting")
        return TemperatureFit(temperature=1.0, at_bound=-1)
    # At b = 0 the slope is mean(z) - mean(z_y) = -scale - mean_at_label. If it is not negative, the convex NLL only rises.
    if -scale >= mean_at_label:
        report("logits carry no information about the labels: the NLL is lowest for equal logits, so T is its upper bound")
        return TemperatureFit(temperature=scale * LIMIT, at_bound=1)
    log_inverse, at_bound = _root(lambda u: _slope_and_curvature(blocks, float(np.exp(u)) / scale))
    if at_bound:
        report(
            "the NLL minimum lies outside the bounds of T; T is its %s bound",
            "lower" if at_bound < 0 else "upper",
        )
    return TemperatureFit(temperature=float(scale / np.exp(log_inverse)), at_bound=at_bound)


def _root(slope_and_curvature: Callable[[float], tuple[float, float]]) -> tuple[float, int]:
    """Returns the root of a non-decreasing slope over u in [-log LIMIT, log LIMIT], or a bound and its side in T."""
    end = float(np.log(LIMIT))
    # u = 0 is the temperature `scale`, the middle of the bracket. The ends are evaluated only if the search reaches them.
    low, high, u = -np.inf, np.inf, 0.0
    for step in range(MAX_STEPS):
        slope, curvature = slope_and_curvature(u)
        if slope == 0:
            return u, 0
        if slope < 0 and u == end:
            return u, -1
        if slope > 0 and u == -end:
            return u, 1
        low, high = (u, high) if slope < 0 else (low, u)
        # The curvature is 0 where every row is one-hot; a NaN fails both comparisons below and leads to bisection.
        newton = u - slope / curvature if curvature > 0 else np.nan
        if abs(newton - u) < CLOSE:
            return min(max(newton, -end), end), 0
        if step < MAX_NEWTON and low < min(max(newton, -end), end) < high:
            u = min(max(newton, -end), end)
        else:
            u = (max(low, -end) + min(high, end)) / 2
    return u, 0


def _slope_and_curvature(blocks: Blocks, inverse: float) -> tuple[float, float]:
    """Returns the slope of the mean NLL in the inverse temperature, and the derivative of the slope in its logarithm."""
    slope, curvature, num_rows = 0.0, 0.0, 0
    for block in blocks():
        # Gaps are 0 or less and 0 at the maximum, so exp cannot overflow and every sum is at least 1.
        weights_CR = np.exp(inverse * block.gaps)
        total_R = weights_CR.sum(axis=0)
        weights_CR *= block.gaps
        mean_R = weights_CR.sum(axis=0) / total_R
        weights_CR *= block.gaps
        square_R = weights_CR.sum(axis=0) / total_R
        slope += float((mean_R - block.at_label).sum())
        curvature += float((square_R - mean_R * mean_R).sum())
        num_rows += len(total_R)
    return slope / num_rows, inverse * curvature / num_rows
