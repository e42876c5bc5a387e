"""Calibration measures against other packages: equal where definitions coincide; elsewhere the reasons are tested."""

import netcal.metrics
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from pruneyard.workloads.metrics.classification import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability,
    root_mean_square_calibration_error,
    softmax,
)

seeds = st.integers(0, 10_000)


def random_rows(seed: int, *, rows: int = 300, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits whose confidences lie on no edge."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, classes)) * 2, generator.integers(classes, size=rows)


def eleven_classes(confidence: list[float], correct: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that predict class 0 with these confidences, however small; labels are of many classes, as netcal takes two
    distinct ones for a binary problem."""
    c, hit = np.array(confidence), np.array(correct)
    return np.column_stack([c, np.repeat((1 - c)[:, None] / 10, 10, axis=1)]), np.where(hit, 0, np.arange(len(c)) % 10 + 1)


def torchmetrics_error(p: np.ndarray, y: np.ndarray, *, num_bins: int = 15, norm: str = "l1") -> float:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    found = functional.multiclass_calibration_error(
        torch.tensor(p), torch.tensor(y), num_classes=p.shape[1], n_bins=num_bins, norm=norm
    )
    return float(found)


def netcal_error(name: str, p: np.ndarray, y: np.ndarray, *, num_bins: int = 15) -> float:
    return float(getattr(netcal.metrics, name)(num_bins).measure(p, y))


@given(seeds)
@settings(max_examples=20)
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    logits, y = random_rows(seed)
    p = softmax(logits)
    assert accuracy(p, y) == accuracy_score(y, p.argmax(axis=1))
    assert negative_log_likelihood(logits, y) == pytest.approx(log_loss(y, p, labels=range(6)), abs=1e-12)
    two = softmax(logits[:, :2])
    of_two = brier_score_loss((y > 2).astype(int), two[:, 1], labels=[0, 1], scale_by_half=True)
    assert brier_score(two, (y > 2).astype(int)) == pytest.approx(2 * of_two, abs=1e-12)  # summed over both classes


@given(seeds)
@settings(max_examples=20)
def test_filled_bins_are_those_of_scikit_learn_s_curve(seed: int) -> None:
    logits, y = random_rows(seed)
    p = softmax(logits)
    bins = reliability(p, y, num_bins=10)
    correct = p.argmax(axis=1) == y
    share, confidence = calibration_curve(correct, p.max(axis=1), n_bins=10)
    filled = bins.count > 0
    assert bins.accuracy[filled] == pytest.approx(share, abs=1e-12)
    assert bins.confidence[filled] == pytest.approx(confidence, abs=1e-12)


@given(seeds)
@settings(max_examples=15, deadline=None)  # the first example imports the package
def test_torchmetrics_agrees_where_no_confidence_lies_on_an_edge(seed: int) -> None:
    logits, y = random_rows(seed)
    p = softmax(logits)
    assert expected_calibration_error(p, y) == pytest.approx(torchmetrics_error(p, y), abs=1e-6)
    assert maximum_calibration_error(p, y) == pytest.approx(torchmetrics_error(p, y, norm="max"), abs=1e-6)
    assert root_mean_square_calibration_error(p, y) == pytest.approx(torchmetrics_error(p, y, norm="l2"), abs=1e-6)


@given(seeds)
@settings(max_examples=15, deadline=None)  # the first example imports the package
def test_netcal_agrees_where_no_confidence_lies_on_an_edge(seed: int) -> None:
    logits, y = random_rows(seed)
    p = softmax(logits)
    assert expected_calibration_error(p, y) == pytest.approx(netcal_error("ECE", p, y), abs=1e-12)
    assert maximum_calibration_error(p, y) == pytest.approx(netcal_error("MCE", p, y), abs=1e-12)


def test_three_packages_return_three_errors_for_confidences_on_edges() -> None:
    """Ours is right-closed; torchmetrics is left-closed; netcal, too, but its edge 0.6000000000000001 moves a sample down."""
    confidence = [0.7, 0.6, 0.55, 0.9, 0.8, 0.5, 0.9, 0.4, 0.8, 0.45, 0.8, 0.4]
    p, y = eleven_classes(confidence, [1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1])
    assert expected_calibration_error(p, y, num_bins=5) == pytest.approx(0.2833, abs=5e-5)
    assert torchmetrics_error(p, y, num_bins=5) == pytest.approx(0.15, abs=1e-6)
    assert netcal_error("ECE", p, y, num_bins=5) == pytest.approx(0.1, abs=1e-12)


def test_torchmetrics_gives_a_confidence_of_one_a_bin_of_its_own() -> None:
    p, y = np.array([[0.05, 0.95], [0.0, 1.0]]), np.array([1, 1])
    y[1] = 0
    assert expected_calibration_error(p, y, num_bins=10) == pytest.approx(0.475)
    assert torchmetrics_error(p, y, num_bins=10) == pytest.approx(0.525, abs=1e-6)


def test_netcal_cuts_equal_mass_groups_at_quantiles_where_ours_are_cut_by_position() -> None:
    confidence = [0.72, 0.61, 0.55, 0.91, 0.83, 0.52, 0.93, 0.41, 0.79, 0.46, 0.85, 0.43]
    p, y = eleven_classes(confidence, [1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1])
    assert adaptive_calibration_error(p, y, num_bins=4) == pytest.approx(0.1958333, abs=5e-8)
    assert netcal_error("ACE", p, y, num_bins=4) == pytest.approx(0.1571, abs=5e-5)


def test_a_binary_score_differs_from_that_of_the_largest_probability() -> None:
    """torchmetrics asks of two classes how often class 1 comes; the largest probability, how often it is right."""
    functional = pytest.importorskip("torchmetrics.functional.classification")
    p1, y = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0, 1, 0, 1])
    of_class_1 = float(functional.binary_calibration_error(torch.tensor(p1), torch.tensor(y), n_bins=2))
    assert of_class_1 == pytest.approx((abs(1 - 0.6) + 0.1) / 4, abs=1e-6)
    of_largest = expected_calibration_error(np.column_stack([1 - p1, p1]), y, num_bins=2)
    assert of_largest == pytest.approx(abs(3 - 3.3) / 4)
