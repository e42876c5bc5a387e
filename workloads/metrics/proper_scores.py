"""Accuracy, and the two proper scores that calibrators are judged by: negative log-likelihood and Brier score."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.class_bins import ClassBins
from pruneyard.workloads.metrics.probabilities import (
    Floats,
    Labels,
    TopLabel,
    checked,
    checked_labels,
    chunks,
)


def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Share of rows whose largest probability is the label's; the first of equal largest ones counts."""
    return float(TopLabel.of(probabilities, labels).correct.mean())


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log softmax(logits)[label] in nats, from `logits: (N, C)` so that a probability of 0 costs its true price."""
    logits_NC = np.asarray(logits)
    log_total = np.concatenate([chunk.log_total for chunk in chunks(logits_NC)])
    labels_N = checked_labels(labels, logits_NC.shape)
    return float((log_total - logits_NC[np.arange(len(labels_N)), labels_N]).mean())


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over rows of the squared distance to the one-hot label, summed over classes: in [0, 2].

    Reference: Brier (1950), the original multi-class form.
    """
    probabilities_NC, labels_N = checked(probabilities, labels)
    return float(squared_distances(probabilities_NC, labels_N).mean())


def squared_distances(probabilities_NC: Floats, labels_N: Labels) -> Floats:
    """Of every row the squared distance to its one-hot label `(N,)`."""
    at_label_N = probabilities_NC[np.arange(len(labels_N)), labels_N]
    squares_N: Floats = np.einsum("ij,ij->i", probabilities_NC, probabilities_NC)
    return squares_N - 2 * at_label_N + 1


@dataclass(frozen=True, kw_only=True)
class BrierParts:
    """Brier score = reliability - resolution + uncertainty + within_bins.

    reliability: squared distance of forecasts from what happened where they were made; resolution: of that from the base rate;
    uncertainty: of the base rate itself; within_bins: what forecasts vary inside bins, less twice how they vary with outcomes
    there; 0 where forecasts of a bin are equal.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float

    @property
    def brier(self) -> float:
        """The score that the parts add up to."""
        return self.reliability - self.resolution + self.uncertainty + self.within_bins


def brier_decomposition(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> BrierParts:
    """The parts of `brier_score`, class by class over bins of equal width of its probability, summed over classes.

    Reference: Murphy (1973); Stephenson, Coelho and Jolliffe (2008) for forecasts that differ inside a bin.
    """
    probabilities_NC, labels_N = checked(probabilities, labels)
    score = float(squared_distances(probabilities_NC, labels_N).mean())
    return brier_parts(ClassBins.of(probabilities_NC, labels_N, num_bins=num_bins), score)


def brier_parts(bins: ClassBins, score: float) -> BrierParts:
    """The same of filled bins; `score` is the Brier score of the same rows."""
    count = np.maximum(bins.count, 1)
    base = bins.positive.sum(axis=1) / bins.num_rows
    of_bin = bins.positive / count
    reliability = float(np.sum((bins.probability - bins.positive) ** 2 / count) / bins.num_rows)
    resolution = float(np.sum(bins.count * (of_bin - base[:, None]) ** 2) / bins.num_rows)
    uncertainty = float(np.sum(base * (1 - base)))
    return BrierParts(
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within_bins=score - reliability + resolution - uncertainty,
    )


def top_label_brier_decomposition(probabilities: ArrayLike, labels: ArrayLike) -> BrierParts:
    """The parts of the mean of (confidence - correct)^2, grouped by distinct confidence, hence with nothing within bins.

    Where all confidences differ, reliability is the score itself: informative after binning or isotonic regression.
    Reference: Murphy (1973).
    """
    top = TopLabel.of(probabilities, labels)
    value, group, count = np.unique(top.confidence, return_inverse=True, return_counts=True)
    observed = np.bincount(group, weights=top.correct) / count
    base, share = float(top.correct.mean()), count / len(top)
    return BrierParts(
        reliability=float(np.sum(share * (value - observed) ** 2)),
        resolution=float(np.sum(share * (observed - base) ** 2)),
        uncertainty=base * (1 - base),
        within_bins=0.0,
    )
