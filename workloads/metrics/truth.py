"""The true calibration error of predictions, for data whose class probabilities are known."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.binned_errors import mean_gap
from pruneyard.workloads.metrics.binning import Binning, bin_by_confidence
from pruneyard.workloads.metrics.probabilities import TopLabel, check_probabilities
from pruneyard.workloads.metrics.unbinned_errors import smooth_gap


def true_calibration_error(
    predicted: ArrayLike,
    true_probabilities: ArrayLike,
    *,
    level: Literal["individual", "binned", "kernel"] = "individual",
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> float:
    """Returns the expected |confidence - true probability that the prediction is correct|; both arrays are `(N, C)`.

    individual: the mean over rows without binning. It is 0 only if every confidence is exact, and is the largest of the three.
    binned: the ECE with true probabilities in place of labels, as with infinitely many labels for the same inputs.
    kernel: the smooth ECE with true probabilities in place of labels. No labels are sampled, so there is no noise floor.
    """
    predicted_NC, true_NC = check_probabilities(predicted), check_probabilities(true_probabilities)
    if predicted_NC.shape != true_NC.shape:
        raise ValueError(
            f"predicted has shape {predicted_NC.shape} and true_probabilities {true_NC.shape}; the shapes must be equal"
        )
    top = true_top_label(predicted_NC, true_NC)
    if level == "individual":
        return float(np.abs(top.confidence - top.correct).mean())
    if level == "binned":
        return mean_gap(bin_by_confidence(top, num_bins=num_bins, binning=binning))
    if level == "kernel":
        return smooth_gap(top)
    raise ValueError(f"level is {level!r}; it must be 'individual', 'binned' or 'kernel'")


def true_top_label(predicted_NC: ArrayLike, true_NC: ArrayLike) -> TopLabel:
    """Returns the confidence of every prediction and the probability that it is correct."""
    predicted, truth = np.asarray(predicted_NC, dtype=np.float64), np.asarray(true_NC, dtype=np.float64)
    # The prediction is that of the network; the true probability is read at the same class, not at its own maximum.
    top_N = predicted.argmax(axis=1)
    rows = np.arange(len(top_N))
    # Both may exceed 1 by the tolerance of `check_probabilities`.
    return TopLabel(confidence=np.minimum(predicted[rows, top_N], 1.0), correct=np.minimum(truth[rows, top_N], 1.0))
