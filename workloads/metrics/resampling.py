"""Statistical noise of metrics: the calibration error that a calibrated network would show."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.metrics.binning import Binning, index_of
from pruneyard.workloads.metrics.probabilities import Floats, check_probabilities

SAMPLED_AT_ONCE = 2**16  # uniform numbers
MAX_CACHED = 2**22  # uniform numbers that are cached for later calls with the same number of rows, 16 MiB


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """Sampled calibration errors `(num_draws,)` of a perfectly calibrated network with the given confidences."""

    draws: Floats

    @property
    def mean(self) -> float:
        """Mean measured error of such a network, although its true error is 0."""
        return float(self.draws.mean())

    def quantile(self, share: float = 0.95) -> float:
        """Returns the error below which a calibrated network stays with probability `share`."""
        return float(np.quantile(self.draws, share))


def noise_floor(
    probabilities: ArrayLike,
    *,
    num_bins: int = 15,
    binning: Binning = "equal_width",
    num_draws: int = 100,
    seed: int = 0,
) -> NoiseFloor:
    """Returns the ECE of the same predictions with the same bins for labels sampled from `probabilities: (N, C)`.

    It only matters whether a sampled label is the predicted one, which has the probability of that prediction.
    Reference: Broecker and Smith (2007) and Vaicenavicius et al. (AISTATS 2019, arXiv:1902.06977), consistency resampling.
    """
    confidence_N = np.minimum(check_probabilities(probabilities).max(axis=1), 1.0)
    return noise_floor_of_confidences(confidence_N, num_bins=num_bins, binning=binning, num_draws=num_draws, seed=seed)


def noise_floor_of_confidences(
    confidence_N: Floats,
    *,
    num_bins: int = 15,
    binning: Binning = "equal_width",
    num_draws: int = 100,
    seed: int = 0,
) -> NoiseFloor:
    """Returns the noise floor of confidences in [0, 1]."""
    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}; it must be 1 or more")
    index_N = index_of(confidence_N, num_bins, binning)
    by_bin = np.sort(index_N, kind="stable")
    grouped_N = confidence_N[np.argsort(index_N, kind="stable")]
    # Starts of the bins that have rows: `reduceat` does not return 0 for an empty segment.
    first = np.flatnonzero(np.append(True, by_bin[1:] != by_bin[:-1]))
    # Sums, not means: n_b * |accuracy_b - confidence_b| is the difference of two sums, and n_b cancels in the ECE.
    expected = np.add.reduceat(grouped_N, first)
    limits_N = grouped_N.astype(np.float32)  # 24 bits are far finer than the statistical error of so many rows
    is_cached = num_draws * len(limits_N) <= MAX_CACHED
    uniforms = (_cached_uniforms if is_cached else _sample_uniforms)(num_draws, len(limits_N), seed)
    gaps = [
        np.abs(np.add.reduceat(some < limits_N, first, axis=1, dtype=np.int64) - expected).sum(axis=1) for some in uniforms
    ]
    return NoiseFloor(draws=np.concatenate(gaps) / len(limits_N))


def _sample_uniforms(num_draws: int, num_rows: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yields uniform numbers in [0, 1), `(some of num_draws, num_rows)` at a time."""
    # The generator fills rows one after the other, so the numbers do not depend on `at_once`.
    generator, at_once = np.random.default_rng(seed), max(1, SAMPLED_AT_ONCE // num_rows)
    for start in range(0, num_draws, at_once):
        yield generator.random((min(at_once, num_draws - start), num_rows), dtype=np.float32)


# A list, because a generator would be exhausted after the first call.
@lru_cache(maxsize=2)
def _cached_uniforms(num_draws: int, num_rows: int, seed: int) -> list[NDArray[np.float32]]:
    """Returns cached uniform numbers: sampling them takes longer than the rest of the noise floor."""
    return list(_sample_uniforms(num_draws, num_rows, seed))
