"""How far a measured number is chance: the error that a calibrated network would show, and bootstrap intervals."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.metrics.binning import Binning, index_of
from pruneyard.workloads.metrics.probabilities import Floats, checked_probabilities

DRAWN_AT_ONCE = 2**16  # uniform numbers


MOST_KEPT = 2**22  # uniform numbers kept for the next networks with as many rows, 16 MiB


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """Expected calibration errors `(num_draws,)` of a network with these confidences that is calibrated perfectly."""

    draws: Floats

    @property
    def mean(self) -> float:
        """What such a network shows on average, although its true error is 0."""
        return float(self.draws.mean())

    def quantile(self, share: float = 0.95) -> float:
        """The error that a calibrated network stays below with probability `share`."""
        return float(np.quantile(self.draws, share))

    def p_value(self, error: float) -> float:
        """How often a calibrated network shows at least this error; never 0, as the measured one counts among the draws."""
        return float((1 + (self.draws >= error).sum()) / (1 + len(self.draws)))


def noise_floor(
    probabilities: ArrayLike,
    *,
    num_bins: int = 15,
    binning: Binning = "equal_width",
    num_draws: int = 100,
    seed: int = 0,
) -> NoiseFloor:
    """ECE of the same predictions at the same bins, if labels were drawn from `probabilities: (N, C)`.

    Only whether a label is the predicted one matters, which it is with the probability of that prediction.
    Reference: Broecker and Smith (2007) and Vaicenavicius et al. (AISTATS 2019, arXiv:1902.06977), consistency resampling.
    """
    confidence_N = np.minimum(checked_probabilities(probabilities).max(axis=1), 1.0)
    return noise_floor_of(confidence_N, num_bins=num_bins, binning=binning, num_draws=num_draws, seed=seed)


def noise_floor_of(
    confidence_N: Floats,
    *,
    num_bins: int = 15,
    binning: Binning = "equal_width",
    num_draws: int = 100,
    seed: int = 0,
) -> NoiseFloor:
    """The same of confidences in [0, 1]."""
    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}; it must be 1 or more")
    index_N = index_of(confidence_N, num_bins, binning)
    by_bin = np.sort(index_N, kind="stable")
    grouped_N = confidence_N[np.argsort(index_N, kind="stable")]
    first = np.flatnonzero(np.append(True, by_bin[1:] != by_bin[:-1]))
    expected = np.add.reduceat(grouped_N, first)
    limits_N = grouped_N.astype(np.float32)  # 24 bits are far finer than what so many rows can tell
    kept = num_draws * len(limits_N) <= MOST_KEPT
    drawn = (_kept_uniform if kept else _uniform)(num_draws, len(limits_N), seed)
    misses = [
        np.abs(np.add.reduceat(some < limits_N, first, axis=1, dtype=np.int64) - expected).sum(axis=1) for some in drawn
    ]
    return NoiseFloor(draws=np.concatenate(misses) / len(limits_N))


def _uniform(num_draws: int, num_rows: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Uniform numbers in [0, 1), `(some draws, num_rows)` at a time."""
    generator, at_once = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // num_rows)
    for start in range(0, num_draws, at_once):
        yield generator.random((min(at_once, num_draws - start), num_rows), dtype=np.float32)


@lru_cache(maxsize=2)
def _kept_uniform(num_draws: int, num_rows: int, seed: int) -> list[NDArray[np.float32]]:
    """The same, ready for whoever asks next: to draw them takes longer than all else."""
    return list(_uniform(num_draws, num_rows, seed))


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A measured value and the ends of its interval."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    metric: Callable[..., float],
    *arrays: ArrayLike,
    num_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `metric(*arrays)` under draws of rows with replacement; the arrays share their first axis.

    Several arrays of probabilities and a metric that is a difference make it a paired comparison. Errors that are biased by
    noise, as the ECE is, are so once more in every draw: their interval lies high, and may lie above the value itself.
    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if num_draws < 1 or not 0 < level < 1:
        raise ValueError(f"num_draws is {num_draws} and level {level}; they must be 1 or more and in (0, 1)")
    given: list[NDArray[Any]] = [np.asarray(array) for array in arrays]
    if (
        not given
        or any(array.ndim == 0 or len(array) != len(given[0]) for array in given)
        or len(given[0]) == 0
    ):
        shapes = [array.shape for array in given]
        raise ValueError(f"arrays have shapes {shapes}; they must have equally many rows, at least one")
    value = metric(*given)
    generator = np.random.default_rng(seed)
    drawn = np.empty(num_draws)
    for draw in range(num_draws):
        rows = generator.integers(len(given[0]), size=len(given[0]))
        drawn[draw] = metric(*(array[rows] for array in given))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))
