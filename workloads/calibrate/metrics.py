"""Accuracy and calibration of predicted probabilities, in float64; the binning contract is written once, in `bin_index`.

Every function takes `probabilities: (N, C)`, rows that sum to 1, and `labels: (N,)`, integers in [0, C). Bad input raises
`ValueError`; no function returns a number for it. Fractions lie in [0, 1], NLL is in nats.

A network may have outputs beyond its K classes (for "unknown"): then `num_extra` of them are the last columns of its logits
`(N, K + num_extra)`. They take their share of the softmax, but prediction and confidence are over the K classes, whose
probabilities are not scaled up to sum to 1: what the network puts on "unknown" is missing from its confidence.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

SUM_TOLERANCE = (
    1e-4  # rows of float32 or bfloat16 softmax miss 1 by less than this for up to some thousand classes
)

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Labels]:
    """The two arrays as float64 and int64, or a `ValueError` that names the first offending row."""
    probabilities_NC, labels_N = _checked_partial(probabilities, labels)
    off_one = np.abs(probabilities_NC.sum(axis=1) - 1) > SUM_TOLERANCE
    _refuse_first(off_one, probabilities_NC, "must sum to 1")
    return probabilities_NC, labels_N


def _checked_partial(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Labels]:
    """As `checked`, of rows that may sum to less than 1 because some outputs are no classes."""
    probabilities_NC = np.asarray(probabilities, dtype=np.float64)
    labels_N = np.asarray(labels)
    if probabilities_NC.ndim != 2 or probabilities_NC.shape[0] == 0 or probabilities_NC.shape[1] < 2:
        raise ValueError(
            f"probabilities have shape {probabilities_NC.shape}; it must be (N, C) with N >= 1 and C >= 2"
        )
    num_rows, num_classes = probabilities_NC.shape
    if labels_N.shape != (num_rows,):
        raise ValueError(
            f"labels have shape {labels_N.shape}; it must be ({num_rows},) like the probabilities"
        )
    if not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(f"labels are {labels_N.dtype}; they must be integers")
    _refuse_first(~np.isfinite(probabilities_NC).all(axis=1), probabilities_NC, "must be finite")
    _refuse_first((probabilities_NC < 0).any(axis=1), probabilities_NC, "must not be negative")
    _refuse_first((labels_N < 0) | (labels_N >= num_classes), labels_N, f"must lie in [0, {num_classes})")
    return probabilities_NC, labels_N.astype(np.int64)


def _refuse_first(offending_N: np.bool_ | NDArray[np.bool_], values: NDArray[np.generic], rule: str) -> None:
    if offending_N.any():
        row = int(offending_N.argmax())
        raise ValueError(f"row {row} is {values[row]}; it {rule}")


def softmax(logits: ArrayLike) -> Floats:
    """Probabilities `(N, C)` of logits `(N, C)`, computed in float64 whatever came."""
    return np.asarray(np.exp(log_softmax(np.asarray(logits, dtype=np.float64), axis=1)))


def known_probabilities(logits: ArrayLike, *, num_extra: int = 0) -> Floats:
    """Probabilities `(N, K)` of the classes alone, of logits `(N, K + num_extra)`; rows sum to 1 only without extra outputs."""
    probabilities_NC = softmax(logits)
    num_classes = probabilities_NC.shape[1] - num_extra
    if num_extra < 0 or num_classes < 2:
        raise ValueError(f"num_extra is {num_extra}; it must leave at least 2 of {probabilities_NC.shape[1]} outputs to classes")
    return probabilities_NC[:, :num_classes]


def bin_index(values: Floats, num_bins: int) -> NDArray[np.int64]:
    """The bin of each value in [0, 1] among `num_bins` of equal width.

    Bins are right-closed, (b / B, (b + 1) / B], and 0 falls into the first. The product with B is taken in float64; a value
    that is not exactly a bin's edge in binary (0.6 for B = 5) goes where that product puts it.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; it must be 1 or more")
    return np.clip(np.ceil(values * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Per bin: mean confidence, accuracy and count, each `(num_bins,)`; the first two are NaN where a bin is empty."""

    confidence: Floats
    accuracy: Floats
    count: NDArray[np.int64]


def reliability(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> Reliability:
    """The reliability diagram of the largest probability, over right-closed bins of equal width."""
    return _reliability(*checked(probabilities, labels), num_bins=num_bins)


def reliability_of_logits(
    logits: ArrayLike, labels: ArrayLike, *, num_extra: int = 0, num_bins: int = 15
) -> Reliability:
    """The same of a network's outputs `(N, K + num_extra)`: the diagram whose gap is the ECE of `standard_metrics`."""
    known = known_probabilities(logits, num_extra=num_extra)
    return _reliability(*_checked_partial(known, labels), num_bins=num_bins)


def _reliability(probabilities_NC: Floats, labels_N: Labels, *, num_bins: int) -> Reliability:
    confidence_N = probabilities_NC.max(axis=1)
    correct_N = probabilities_NC.argmax(axis=1) == labels_N
    index_N = bin_index(confidence_N, num_bins)
    count = np.bincount(index_N, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index_N, weights=confidence_N, minlength=num_bins) / count
        accuracy_B = np.bincount(index_N, weights=correct_N, minlength=num_bins) / count
    return Reliability(confidence=confidence, accuracy=accuracy_B, count=count)


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """Sum over bins of n_b / n * |accuracy_b - confidence_b|; empty bins add nothing.

    Reference: Naeini, Cooper and Hauskrecht (AAAI 2015); Guo et al. (ICML 2017), 15 bins.
    """
    return _mean_gap(reliability(probabilities, labels, num_bins=num_bins))


def _mean_gap(bins: Reliability) -> float:
    filled = bins.count > 0
    gaps = np.abs(bins.accuracy[filled] - bins.confidence[filled])
    return float(np.sum(gaps * bins.count[filled]) / bins.count.sum())


def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Share of rows whose largest probability is the label's; the first of equal largest ones counts."""
    return _accuracy(*checked(probabilities, labels))


def _accuracy(probabilities_NC: Floats, labels_N: Labels) -> float:
    return float((probabilities_NC.argmax(axis=1) == labels_N).mean())


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log softmax(logits)[label] in nats, from `logits: (N, C)` so that a probability of 0 costs its true price."""
    log_probabilities_NC = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    _, labels_N = checked(np.exp(log_probabilities_NC), labels)
    return float(-log_probabilities_NC[np.arange(len(labels_N)), labels_N].mean())


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over rows of the squared distance to the one-hot label, summed over classes: in [0, 2].

    Reference: Brier (1950), the original multi-class form.
    """
    return _brier_score(*checked(probabilities, labels))


def _brier_score(probabilities_NC: Floats, labels_N: Labels) -> float:
    at_label_N = probabilities_NC[np.arange(len(labels_N)), labels_N]
    return float(((probabilities_NC**2).sum(axis=1) - 2 * at_label_N + 1).mean())


STANDARD_METRICS = {
    "accuracy": "share of rows whose largest probability is the label's",
    "nll": "mean negative log-likelihood of the label, in nats",
    "ece": "expected calibration error of the largest probability, 15 right-closed bins of equal width",
    "brier": "squared distance to the one-hot label, summed over classes, mean over rows",
}


ROBUST_METRICS = {
    "robust_accuracy": "share of rows right as they are and after every attack within eps, where `robust.restarts` asks for it",
}


def standard_metrics(logits: ArrayLike, labels: ArrayLike, *, num_extra: int = 0) -> dict[str, float]:
    """`accuracy`, `nll`, `ece` (15 bins) and `brier` of `logits: (N, K + num_extra)`: what every evaluation reports.

    Labels lie in [0, K). The Brier score sums over the K classes; NLL is that of the full softmax.
    """
    known = known_probabilities(logits, num_extra=num_extra)
    probabilities_NK, labels_N = _checked_partial(known, labels)
    return {
        "accuracy": _accuracy(probabilities_NK, labels_N),
        "nll": negative_log_likelihood(logits, labels_N),
        "ece": _mean_gap(_reliability(probabilities_NK, labels_N, num_bins=15)),
        "brier": _brier_score(probabilities_NK, labels_N),
    }
