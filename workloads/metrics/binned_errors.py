"""Calibration errors over bins of confidence; the bins are those of `binning.py`, by default 15 of equal width.

All are upper-biased by chance except the debiased one: see `resampling.noise_floor`.
"""

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.binning import Binning, Reliability, binned
from pruneyard.workloads.metrics.class_bins import ClassBins
from pruneyard.workloads.metrics.probabilities import Floats, TopLabel, checked


def reliability(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> Reliability:
    """The reliability diagram of the largest probability."""
    return binned(TopLabel.of(probabilities, labels), num_bins=num_bins, binning=binning)


def reliability_of_logits(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    num_extra: int = 0,
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> Reliability:
    """The same of a network's outputs `(N, K + num_extra)`: the diagram whose gap is the ECE of `standard_metrics`."""
    return binned(TopLabel.of_logits(logits, labels, num_extra=num_extra), num_bins=num_bins, binning=binning)


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> float:
    """Sum over bins of n_b / n * |accuracy_b - confidence_b|; empty bins add nothing.

    Reference: Naeini, Cooper and Hauskrecht (AAAI 2015); Guo et al. (ICML 2017), 15 bins.
    """
    return mean_gap(reliability(probabilities, labels, num_bins=num_bins, binning=binning))


def mean_gap(bins: Reliability) -> float:
    """The expected calibration error of a diagram."""
    return float(np.sum(np.abs(bins.gap) * bins.count) / bins.count.sum())


def adaptive_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """The expected calibration error over bins of equal mass."""
    return expected_calibration_error(probabilities, labels, num_bins=num_bins, binning="equal_mass")


def maximum_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: int = 15,
    binning: Binning = "equal_width",
    min_count: int = 1,
) -> float:
    """The largest gap of a bin with at least `min_count` rows; few rows make large gaps by chance.

    Reference: Naeini, Cooper and Hauskrecht (AAAI 2015).
    """
    return largest_gap(
        reliability(probabilities, labels, num_bins=num_bins, binning=binning), min_count=min_count
    )


def largest_gap(bins: Reliability, *, min_count: int = 1) -> float:
    """The maximum calibration error of a diagram."""
    if min_count < 1:
        raise ValueError(f"min_count is {min_count}; it must be 1 or more")
    counted = bins.count >= min_count
    if not counted.any():
        raise ValueError(f"min_count is {min_count}; no bin has more than {bins.count.max()} rows")
    return float(np.abs(bins.gap[counted]).max())


def root_mean_square_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> float:
    """Root of the sum over bins of n_b / n * (accuracy_b - confidence_b)^2.

    Reference: Hendrycks, Mazeika and Dietterich (ICLR 2019, arXiv:1812.04606).
    """
    return root_mean_square_gap(reliability(probabilities, labels, num_bins=num_bins, binning=binning))


def root_mean_square_gap(bins: Reliability) -> float:
    """The same of a diagram."""
    return float(np.sqrt(np.sum(bins.share * bins.gap**2)))


def debiased_squared_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> float:
    """Sum over bins of n_b / n * (gap_b^2 - accuracy_b (1 - accuracy_b) / (n_b - 1)): the squared error less its noise.

    Negative where there is less gap than chance alone makes. Bins of one row add nothing.
    Reference: Kumar, Liang and Ma (NeurIPS 2019, arXiv:1909.10155).
    """
    return debiased_squared_gap(reliability(probabilities, labels, num_bins=num_bins, binning=binning))


def debiased_squared_gap(bins: Reliability) -> float:
    """The same of a diagram."""
    counted = bins.count >= 2
    accuracy = bins.accuracy[counted]
    noise = accuracy * (1 - accuracy) / (bins.count[counted] - 1)
    return float(np.sum(bins.share[counted] * (bins.gap[counted] ** 2 - noise)))


def debiased_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> float:
    """Root of the debiased squared calibration error, 0 where that is negative; compare it with the RMSCE."""
    squared = debiased_squared_calibration_error(probabilities, labels, num_bins=num_bins, binning=binning)
    return float(np.sqrt(max(squared, 0.0)))


def classwise_calibration_errors(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> Floats:
    """For every class `(C,)` the expected calibration error of its probability over all rows; NaN where it has no row.

    Bins of equal width. Reference: Nixon et al. (arXiv:1904.01685), static calibration error by class.
    """
    return ClassBins.of(*checked(probabilities, labels), num_bins=num_bins).errors


def classwise_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Mean of `classwise_calibration_errors` over the classes that have rows.

    With many classes most of it lies in the first bin, where all is near 0: it shrinks as C grows.
    """
    return float(np.nanmean(classwise_calibration_errors(probabilities, labels, num_bins=num_bins)))
