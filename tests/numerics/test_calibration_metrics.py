"""Calibration metrics against values worked by hand and against a brute-force twin."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from twelve_samples import P, Y

from pruneyard.testing.cases import each_case
from pruneyard.workloads.metrics.classification import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    class_counts,
    class_probabilities,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    reliability_of_logits,
    softmax,
    standard_metrics,
)


def test_golden_values_of_twelve_samples() -> None:
    assert accuracy(P, Y) == 0.75
    assert expected_calibration_error(P, Y, num_bins=5) == pytest.approx(0.1025, abs=1e-12)
    assert brier_score(P, Y) == pytest.approx(0.3454667, abs=5e-8)
    assert negative_log_likelihood(np.log(P), Y) == pytest.approx(0.6041279, abs=5e-8)
    assert negative_log_likelihood(np.log(P), Y) == pytest.approx(log_loss(Y, P), abs=1e-12)


def test_bins_are_right_closed_so_ties_at_an_edge_fall_below_it() -> None:
    confidence = np.array([0.7, 0.6, 0.55, 0.9, 0.8, 0.5, 0.9, 0.4, 0.8, 0.45, 0.8, 0.4])
    correct = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1])
    rest = (1 - confidence) / 9  # nine other classes, so that 0.4 is still the largest
    probabilities = np.column_stack([confidence, np.repeat(rest[:, None], 9, axis=1)])
    assert expected_calibration_error(probabilities, 1 - correct, num_bins=5) == pytest.approx(
        0.2833333, abs=5e-8
    )


def test_a_confidence_of_exactly_one_counts_in_the_last_bin() -> None:
    probabilities = np.array([[0.05, 0.95], [0.0, 1.0]])
    assert expected_calibration_error(probabilities, [1, 0], num_bins=10) == pytest.approx(0.475)


def test_reliability_reports_empty_bins() -> None:
    bins = reliability(np.array([[0.9, 0.1], [0.95, 0.05]]), [0, 1], num_bins=4)
    assert bins.count.tolist() == [0, 0, 0, 2]
    assert np.isnan(bins.accuracy[:3]).all()
    assert bins.accuracy[3] == 0.5
    assert bins.confidence[3] == pytest.approx(0.925)


def slow_ece(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> float:
    members: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, labels, strict=True):
        index = min(max(math.ceil(row.max() * num_bins) - 1, 0), num_bins - 1)
        members.setdefault(index, []).append((row.max(), row.argmax() == label))
    total = 0.0
    for rows in members.values():
        total += abs(sum(c for c, _ in rows) - sum(hit for _, hit in rows))
    return total / len(labels)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6), st.integers(1, 20))
def test_ece_equals_its_brute_force_twin(seed: int, rows: int, classes: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = softmax(generator.normal(size=(rows, classes)) * 3)
    labels = generator.integers(classes, size=rows)
    assert expected_calibration_error(probabilities, labels, num_bins=bins) == pytest.approx(
        slow_ece(probabilities, labels, bins), abs=1e-12
    )


@given(st.integers(0, 10_000))
def test_metrics_do_not_depend_on_the_order_of_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(40, 5)), generator.integers(5, size=40)
    order = generator.permutation(40)
    before, after = standard_metrics(logits, labels), standard_metrics(logits[order], labels[order])
    assert before == pytest.approx(after, abs=1e-12)


def test_nll_of_a_vanishing_probability_is_its_true_price() -> None:
    assert negative_log_likelihood([[0.0, 2000.0]], [0]) == pytest.approx(2000.0)


def test_an_extra_output_lowers_confidence_and_is_never_predicted() -> None:
    """Two classes and "unknown" with odds 3:1:4 and 1:1:14: confidences 3/8 and 1/16, labels 0 and 1, the first right."""
    logits, labels = np.log([[3.0, 1.0, 4.0], [1.0, 1.0, 14.0]]), np.array([0, 1])
    found = standard_metrics(logits, labels, num_extra=1)
    assert found["accuracy"] == 0.5
    assert found["nll"] == pytest.approx((np.log(8 / 3) + np.log(16)) / 2)
    assert found["ece"] == pytest.approx((5 / 8 + 1 / 16) / 2)
    first, second = (5 / 8) ** 2 + (1 / 8) ** 2, (1 / 16) ** 2 + (15 / 16) ** 2
    assert found["brier"] == pytest.approx((first + second) / 2)
    bins = reliability_of_logits(logits, labels, num_extra=1, num_bins=10)
    assert bins.count.tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert bins.confidence[[0, 3]] == pytest.approx([1 / 16, 3 / 8])


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_extra_outputs_without_probability_change_nothing(seed: int, num_extra: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(30, 4)), generator.integers(4, size=30)
    padded = np.column_stack([logits, np.full((30, num_extra), -np.inf)])
    assert standard_metrics(padded, labels, num_extra=num_extra) == pytest.approx(standard_metrics(logits, labels), abs=1e-12)


def test_metrics_of_logits_are_those_of_their_probabilities() -> None:
    probabilities, logits = softmax(np.log(P)), np.log(P)
    assert standard_metrics(logits, Y) == {
        "accuracy": accuracy(probabilities, Y),
        "nll": negative_log_likelihood(logits, Y),
        "ece": expected_calibration_error(probabilities, Y),
        "ece_adaptive": adaptive_calibration_error(probabilities, Y),
        "brier": brier_score(probabilities, Y),
        **class_counts(logits, Y).metrics(),
    }


def test_labels_of_extra_outputs_and_too_many_of_them_are_refused() -> None:
    logits = np.zeros((1, 3))
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\)"):
        standard_metrics(logits, [2], num_extra=1)
    with pytest.raises(ValueError, match="num_extra is 2; it must leave at least 2 of 3 outputs"):
        standard_metrics(logits, [0], num_extra=2)
    with pytest.raises(ValueError, match="num_extra is -1"):
        standard_metrics(logits, [0], num_extra=-1)
    with pytest.raises(ValueError, match="must sum to 1"):
        expected_calibration_error(class_probabilities(logits, num_extra=1), [0])


@each_case(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, np.nan]], [0], "row 0 .* must be finite"),
        ([[0.5, 0.5], [0.9, 0.3]], [0, 1], "row 1 .* must sum to 1"),
        ([[1.5, -0.5]], [0], "must not be negative"),
        ([[0.5, 0.5]], [2], r"must lie in \[0, 2\)"),
        ([[0.5, 0.5]], [0.0], "must be integers"),
        ([[0.5, 0.5]], [0, 1], r"must be \(1,\)"),
        (np.empty((0, 3)), np.empty(0, dtype=int), "N >= 1"),
        ([[1.0]], [0], "C >= 2"),
    ],
)
def test_bad_input_is_refused_by_row(probabilities: object, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probabilities, labels)  # type: ignore[arg-type]
