"""Calibration errors over the bins of confidence of `binning.py`, by default 15 of equal width.

All are biased upwards by noise, except the debiased one; see `resampling.noise_floor`.
"""

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.binning import Binning, Reliability, bin_by_confidence
from pruneyard.workloads.metrics.class_bins import ClassBins
from pruneyard.workloads.metrics.probabilities import Floats, TopLabel, check_inputs


def reliability(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> Reliability:
    """Returns the reliability diagram of the largest probability."""
    return bin_by_confidence(TopLabel.from_probabilities(probabilities, labels), num_bins=num_bins, binning=binning)


def reliability_of_logits(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    num_extra: int = 0,
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> Reliability:
    """Returns the reliability diagram of a network's outputs `(N, K + num_extra)`; its ECE is that of `standard_metrics`."""
    return bin_by_confidence(TopLabel.from_logits(logits, labels, num_extra=num_extra), num_bins=num_bins, binning=binning)


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> float:
    """Returns the sum over bins of n_b / n * |accuracy_b - confidence_b|; empty bins add nothing.

    Reference: Naeini, Cooper and Hauskrecht (AAAI 2015); Guo et al. (ICML 2017), 15 bins.
    """
    return mean_gap(reliability(probabilities, labels, num_bins=num_bins, binning=binning))


def mean_gap(bins: Reliability) -> float:
    """Returns the expected calibration error of a diagram."""
    return float(np.sum(np.abs(bins.gap) * bins.count) / bins.count.sum())


def adaptive_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Returns the expected calibration error over bins of equal mass."""
    return expected_calibration_error(probabilities, labels, num_bins=num_bins, binning="equal_mass")


def maximum_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: int = 15,
    binning: Binning = "equal_width",
    min_count: int = 1,
) -> float:
    """Returns the largest gap among bins with at least `min_count` rows; bins with few rows have large gaps by chance.

    Reference: Naeini, Cooper and Hauskrecht (AAAI 2015).
    """
    return largest_gap(
        reliability(probabilities, labels, num_bins=num_bins, binning=binning), min_count=min_count
    )


def largest_gap(bins: Reliability, *, min_count: int = 1) -> float:
    """Returns the maximum calibration error of a diagram."""
    if min_count < 1:
        raise ValueError(f"min_count is {min_count}; it must be 1 or more")
    # Without this mask, the gap 0 of empty bins would hide an error of the caller: a `min_count` that no bin reaches.
    counted = bins.count >= min_count
    if not counted.any():
        raise ValueError(f"min_count is {min_count}; it must be at most {bins.count.max()}, the rows of the fullest bin")
    return float(np.abs(bins.gap[counted]).max())


def root_mean_square_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> float:
    """Returns the root of the sum over bins of n_b / n * (accuracy_b - confidence_b)^2.

    Reference: Hendrycks, Mazeika and Dietterich (ICLR 2019, arXiv:1812.04606).
    """
    return root_mean_square_gap(reliability(probabilities, labels, num_bins=num_bins, binning=binning))


def root_mean_square_gap(bins: Reliability) -> float:
    """Returns the root mean square calibration error of a diagram."""
    return float(np.sqrt(np.sum(bins.share * bins.gap**2)))


def debiased_squared_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> float:
    """Returns the sum over bins of n_b / n * (gap_b^2 - accuracy_b (1 - accuracy_b) / (n_b - 1)).

    This is the squared error minus its noise. It is negative if the gaps are smaller than expected by chance. Bins of one row
    add nothing.
    Reference: Kumar, Liang and Ma (NeurIPS 2019, arXiv:1909.10155).
    """
    return debiased_squared_gap(reliability(probabilities, labels, num_bins=num_bins, binning=binning))


def debiased_squared_gap(bins: Reliability) -> float:
    """Returns the debiased squared calibration error of a diagram."""
    # The variance of a single outcome cannot be estimated: n_b - 1 is 0.
    counted = bins.count >= 2
    accuracy = bins.accuracy[counted]
    noise = accuracy * (1 - accuracy) / (bins.count[counted] - 1)
    return float(np.sum(bins.share[counted] * (bins.gap[counted] ** 2 - noise)))


def debiased_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, binning: Binning = "equal_width"
) -> float:
    """Returns the root of the debiased squared calibration error, 0 if that is negative; comparable with the RMSCE."""
    squared = debiased_squared_calibration_error(probabilities, labels, num_bins=num_bins, binning=binning)
    return float(np.sqrt(max(squared, 0.0)))


def classwise_calibration_errors(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> Floats:
    """Returns the expected calibration error of each class's probability over all rows `(C,)`; NaN for a class without rows.

    Bins have equal width. Reference: Nixon et al. (arXiv:1904.01685), static calibration error by class.
    """
    return ClassBins.from_probabilities(*check_inputs(probabilities, labels), num_bins=num_bins).errors


def classwise_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Returns the mean of `classwise_calibration_errors` over the classes that have rows.

    With many classes most probabilities lie in the first bin, near 0, so the error decreases with the number of classes.
    """
    return float(np.nanmean(classwise_calibration_errors(probabilities, labels, num_bins=num_bins)))
