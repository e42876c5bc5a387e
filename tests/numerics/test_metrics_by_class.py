"""Accuracy by class: by hand, against scikit-learn, and where classes are missing."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, top_k_accuracy_score

from pruneyard.workloads.metrics.classification import class_counts, standard_metrics


def test_by_hand() -> None:
    """Nine rows of class 0, all right; one of class 1, taken for class 0."""
    logits = np.tile([2.0, 0.0, -1.0], (10, 1))
    found = standard_metrics(logits, [0] * 9 + [1])
    assert found["accuracy"] == 0.9
    assert found["balanced_accuracy"] == 0.5
    assert found["accuracy_of_worst_class"] == 0.0
    assert found["macro_f1"] == pytest.approx((2 * 0.9 / 1.9 + 0) / 2)
    assert "top5_accuracy" not in found
    np.testing.assert_array_equal(class_counts(logits, [0] * 9 + [1]).accuracy, [1.0, 0.0, np.nan])


@pytest.mark.parametrize("num_extra", [0, 1])
def test_they_are_those_of_scikit_learn(num_extra: int) -> None:
    draws = np.random.default_rng(0)
    labels = draws.choice(8, 500, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02, 0.0])  # the last class has no rows
    logits = draws.normal(size=(500, 8)) + 2 * np.eye(8)[labels]
    padded = np.column_stack([logits, np.full((500, num_extra), 9.0)])  # larger than every class
    found = standard_metrics(padded, labels, num_extra=num_extra)
    predicted = logits.argmax(axis=1)
    is_there = np.isin(predicted, labels)  # scikit-learn warns of predicted classes without rows
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert found["top5_accuracy"] == top_k_accuracy_score(labels, logits, k=5, labels=range(8))
    kept = standard_metrics(padded[is_there], labels[is_there], num_extra=num_extra)
    assert kept["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels[is_there], predicted[is_there]))


def test_among_equal_outputs_the_first_classes_are_the_top_ones() -> None:
    found = standard_metrics(np.zeros((6, 6)), np.arange(6))
    assert found["top5_accuracy"] == pytest.approx(5 / 6)
    assert found["accuracy"] == pytest.approx(1 / 6)
