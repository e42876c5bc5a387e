"""Accuracy and two proper scoring rules for the comparison of calibrators: negative log-likelihood and Brier score."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.class_bins import ClassBins
from pruneyard.workloads.metrics.probabilities import (
    Floats,
    Labels,
    TopLabel,
    check_inputs,
    check_labels,
    softmax_chunks,
)


def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Returns the share of rows whose largest probability is the label's; among equal largest ones the first counts."""
    return float(TopLabel.from_probabilities(probabilities, labels).correct.mean())


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Returns the mean of -log softmax(logits)[label] in nats.

    logits: (N, C). They are used instead of probabilities because a tiny probability may round to 0.
    """
    logits_NC = np.asarray(logits)
    log_total = np.concatenate([chunk.log_total for chunk in softmax_chunks(logits_NC)])
    labels_N = check_labels(labels, logits_NC.shape)
    return float((log_total - logits_NC[np.arange(len(labels_N)), labels_N]).mean())


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Returns the mean over rows of the squared distance to the one-hot label, summed over classes; it lies in [0, 2].

    Reference: Brier (1950), the original multi-class form.
    """
    probabilities_NC, labels_N = check_inputs(probabilities, labels)
    return float(squared_distances(probabilities_NC, labels_N).mean())


def squared_distances(probabilities_NC: Floats, labels_N: Labels) -> Floats:
    """Returns the squared distance of every row to its one-hot label `(N,)`."""
    # |p - e|^2 = |p|^2 - 2 p_label + 1 needs no one-hot matrix (N, C), and `einsum` no matrix of squares.
    at_label_N = probabilities_NC[np.arange(len(labels_N)), labels_N]
    squares_N: Floats = np.einsum("ij,ij->i", probabilities_NC, probabilities_NC)
    return squares_N - 2 * at_label_N + 1


@dataclass(frozen=True, kw_only=True)
class BrierParts:
    """The decomposition of the Brier score: reliability - resolution + uncertainty + within_bins.

    reliability: mean squared distance between the forecasts and the observed frequencies of the bins.
    resolution: mean squared distance between the observed frequencies of the bins and the base rate.
    uncertainty: variance of the outcomes at the base rate.
    within_bins: variance of forecasts inside bins, minus twice their covariance with outcomes there; 0 if all forecasts of a
        bin are equal.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float

    @property
    def brier(self) -> float:
        """The Brier score, computed from its parts."""
        return self.reliability - self.resolution + self.uncertainty + self.within_bins


def brier_decomposition(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> BrierParts:
    """Returns the parts of `brier_score`, computed per class over bins of equal width of its probability, summed over classes.

    Reference: Murphy (1973); Stephenson, Coelho and Jolliffe (2008) for forecasts that differ inside a bin.
    """
    probabilities_NC, labels_N = check_inputs(probabilities, labels)
    score = float(squared_distances(probabilities_NC, labels_N).mean())
    return brier_parts(ClassBins.from_probabilities(probabilities_NC, labels_N, num_bins=num_bins), score)


def brier_parts(bins: ClassBins, score: float) -> BrierParts:
    """Returns the parts of the Brier score from bins of classes; `score` is the Brier score of the same rows."""
    # The sums of an empty bin are 0; a count of 1 makes 0 / 0 a 0.
    count = np.maximum(bins.count, 1)
    base = bins.positive.sum(axis=1) / bins.num_rows
    observed = bins.positive / count
    reliability = float(np.sum((bins.probability - bins.positive) ** 2 / count) / bins.num_rows)
    resolution = float(np.sum(bins.count * (observed - base[:, None]) ** 2) / bins.num_rows)
    uncertainty = float(np.sum(base * (1 - base)))
    return BrierParts(
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        # The remainder, because `ClassBins` holds sums only, not the rows that its definition needs.
        within_bins=score - reliability + resolution - uncertainty,
    )


def top_label_brier(top: TopLabel) -> float:
    """Returns the mean of (confidence - correct)^2, in [0, 1]: the Brier score of the largest probability alone."""
    return float(((top.confidence - top.correct) ** 2).mean())
