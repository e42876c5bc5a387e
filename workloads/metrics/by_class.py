"""Accuracy of every class, and means over classes that do not let frequent classes hide rare ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.metrics.probabilities import Floats, Labels, check_labels, softmax_chunks

TOP_K = 5


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Numbers of rows by class, (K,) int64 each: those of the class, those predicted as it, and those of which both hold."""

    rows: Labels
    predicted: Labels
    correct: Labels

    @classmethod
    def of(cls, predicted: Labels, labels: Labels, *, num_classes: int) -> "ClassCounts":
        """Counts predicted classes (N,) and labels (N,)."""
        return cls(
            rows=np.bincount(labels, minlength=num_classes),
            predicted=np.bincount(predicted, minlength=num_classes),
            correct=np.bincount(labels[predicted == labels], minlength=num_classes),
        )

    @property
    def accuracy(self) -> Floats:
        """The share of each class's rows that are predicted as it, its recall (K,); NaN for a class without rows."""
        shares: Floats = np.divide(self.correct, self.rows, out=np.full(len(self.rows), np.nan), where=self.rows > 0)
        return shares

    @property
    def f1(self) -> Floats:
        """The F1 score of each class (K,); NaN for a class that has no rows and is never predicted."""
        total = self.rows + self.predicted
        scores: Floats = np.divide(2 * self.correct, total, out=np.full(len(total), np.nan), where=total > 0)
        return scores

    def metrics(self) -> dict[str, float]:
        """Returns balanced accuracy and macro F1 as scikit-learn defines them, and the accuracy of the worst class."""
        accuracy = self.accuracy
        return {
            "balanced_accuracy": float(np.nanmean(accuracy)),
            "macro_f1": float(np.nanmean(self.f1)),
            "accuracy_of_worst_class": float(np.nanmin(accuracy)),
        }


def class_counts(logits: ArrayLike, labels: ArrayLike, *, num_extra: int = 0) -> ClassCounts:
    """Returns the counts of outputs `(N, K + num_extra)` and labels `(N,)` in [0, K)."""
    chunks = [(chunk.predicted, chunk.probabilities.shape[1]) for chunk in softmax_chunks(logits, num_extra=num_extra)]
    predicted_N, num_classes = np.concatenate([predicted for predicted, _ in chunks]), chunks[0][1]
    return ClassCounts.of(predicted_N, check_labels(labels, (len(predicted_N), num_classes)), num_classes=num_classes)


def is_among_top(outputs_NK: Floats, labels: Labels) -> NDArray[np.bool_]:
    """Returns for each row whether its label is among the `TOP_K` classes with the largest outputs (N,).

    Among equal outputs the first class ranks first, as for accuracy.
    """
    at_label = outputs_NK[np.arange(len(labels)), labels][:, None]
    is_before = np.arange(outputs_NK.shape[1]) < labels[:, None]
    ranked_above = (outputs_NK > at_label) | ((outputs_NK == at_label) & is_before)
    among_top: NDArray[np.bool_] = ranked_above.sum(axis=1) < TOP_K
    return among_top
