"""Metrics of the probability of the positive class in binary problems.

They differ from the metrics of the predicted class, whose probability is never below 1/2.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.metrics.binned_errors import mean_gap
from pruneyard.workloads.metrics.binning import Reliability, bin_by_confidence
from pruneyard.workloads.metrics.detection import aupr_in, auroc
from pruneyard.workloads.metrics.probabilities import Floats, TopLabel

BINARY_METRICS = {
    "auroc_positive": "how often a positive row has a larger probability of the positive class than another row; 0.5 is chance",
    "aupr_positive": "average precision of the positive class's probability; the share of positives is chance",
    "brier_positive": "mean squared distance of the positive class's probability from 1 for positive rows and 0 for others",
    "ece_positive": "mean gap between the share of positives and the positive class's probability, over 15 bins of equal width",
}


def binary_metrics(probabilities: ArrayLike, is_positive: ArrayLike, *, num_bins: int = 15) -> dict[str, float]:
    """Returns all of `BINARY_METRICS` for probabilities (N,) of the positive class and booleans (N,).

    AUROC and average precision are NaN where rows of one class are missing. Raises `ValueError` for arrays of unequal lengths.
    """
    scores_N, positive_N = _checked(probabilities, is_positive)
    both = positive_N.any() and not positive_N.all()
    bins = positive_reliability(scores_N, positive_N, num_bins=num_bins)
    return {
        "auroc_positive": auroc(scores_N[positive_N], scores_N[~positive_N]) if both else float("nan"),
        "aupr_positive": aupr_in(scores_N[positive_N], scores_N[~positive_N]) if both else float("nan"),
        "brier_positive": float(((scores_N - positive_N) ** 2).mean()),
        "ece_positive": mean_gap(bins),
    }


def positive_reliability(probabilities: ArrayLike, is_positive: ArrayLike, *, num_bins: int = 15) -> Reliability:
    """Returns the reliability diagram of the positive class, for probabilities (N,) of that class and booleans (N,).

    In each bin of equal width `confidence` is the mean probability of the positive class, from 0 to 1, and `accuracy` the share
    of positive rows. Its ECE is `ece_positive`. Raises `ValueError` for arrays of unequal lengths.
    """
    scores_N, positive_N = _checked(probabilities, is_positive)
    return bin_by_confidence(TopLabel(confidence=np.clip(scores_N, 0, 1), correct=positive_N), num_bins=num_bins)


def _checked(probabilities: ArrayLike, is_positive: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    scores_N, positive_N = np.asarray(probabilities, dtype=np.float64), np.asarray(is_positive)
    if scores_N.ndim != 1 or positive_N.shape != scores_N.shape or positive_N.dtype != np.bool_:
        came = f"{scores_N.shape} and {positive_N.dtype} {positive_N.shape}"
        raise ValueError(f"probabilities and is_positive have shapes {came}; they must be (N,) and bool (N,)")
    return scores_N, positive_N
