"""The true calibration error of predictions, for data whose class probabilities are known."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.binned_errors import mean_gap
from pruneyard.workloads.metrics.binning import Binning, binned
from pruneyard.workloads.metrics.probabilities import TopLabel, checked_probabilities
from pruneyard.workloads.metrics.unbinned_errors import smooth_gap


def true_calibration_error(
    predicted: ArrayLike,
    true_probabilities: ArrayLike,
    *,
    level: Literal["individual", "binned", "kernel"] = "individual",
    num_bins: int = 15,
    binning: Binning = "equal_width",
) -> float:
    """Expected |confidence - true probability that the prediction is right|, of `predicted` and the truth, both `(N, C)`.

    individual: row by row, with nothing averaged first: 0 only where every single confidence is right, so it is the largest.
    binned: the ECE with the true probability in place of labels: of an infinite number of labels for the same inputs.
    kernel: the same of the smooth ECE. No labels are drawn, so none has a noise floor.
    """
    predicted_NC, true_NC = checked_probabilities(predicted), checked_probabilities(true_probabilities)
    if predicted_NC.shape != true_NC.shape:
        raise ValueError(
            f"predicted are {predicted_NC.shape} and the truth is {true_NC.shape}; they must be alike"
        )
    top = true_top_label(predicted_NC, true_NC)
    if level == "individual":
        return float(np.abs(top.confidence - top.correct).mean())
    if level == "binned":
        return mean_gap(binned(top, num_bins=num_bins, binning=binning))
    if level == "kernel":
        return smooth_gap(top)
    raise ValueError(f"level is {level!r}; it must be 'individual', 'binned' or 'kernel'")


def true_top_label(predicted_NC: ArrayLike, true_NC: ArrayLike) -> TopLabel:
    """Confidence of every prediction, and the probability with which it is right."""
    predicted, truth = np.asarray(predicted_NC, dtype=np.float64), np.asarray(true_NC, dtype=np.float64)
    chosen_N = predicted.argmax(axis=1)
    rows = np.arange(len(chosen_N))
    return TopLabel(
        confidence=np.minimum(predicted[rows, chosen_N], 1.0), correct=np.minimum(truth[rows, chosen_N], 1.0)
    )
