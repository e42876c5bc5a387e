"""Every calibration measure on twelve samples with independently computed values, and on very small cases."""

import math

import numpy as np
import pytest
from twelve_samples import P, Y

from pruneyard.workloads.metrics.classification import (
    CALIBRATION_METRICS,
    STANDARD_METRICS,
    TopLabel,
    adaptive_calibration_error,
    all_metrics,
    augrc,
    aurc,
    balance_score,
    brier_decomposition,
    classwise_calibration_error,
    classwise_calibration_errors,
    debiased_calibration_error,
    debiased_squared_calibration_error,
    e_aurc,
    equal_mass_index,
    expected_calibration_error,
    kolmogorov_smirnov_error,
    maximum_calibration_error,
    optimal_aurc,
    reliability,
    risk_coverage,
    root_mean_square_calibration_error,
    smooth_calibration_error,
    standard_metrics,
    top_label_brier,
    true_calibration_error,
)


def two_class(confidence: list[float], correct: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows that predict class 0 with these confidences, which must all be above a half."""
    c = np.array(confidence)
    return np.column_stack([c, 1 - c]), 1 - np.array(correct)


def test_golden_values_of_twelve_samples() -> None:
    assert maximum_calibration_error(P, Y, num_bins=5) == pytest.approx(0.1260, abs=1e-12)
    assert root_mean_square_calibration_error(P, Y, num_bins=5) == pytest.approx(0.1086968, abs=5e-8)
    assert debiased_squared_calibration_error(P, Y, num_bins=5) == pytest.approx(-0.0409628, abs=5e-8)
    assert debiased_calibration_error(P, Y, num_bins=5) == 0
    assert adaptive_calibration_error(P, Y, num_bins=4) == pytest.approx(0.1958333, abs=5e-8)
    assert classwise_calibration_errors(P, Y, num_bins=5) == pytest.approx([0.1191667, 0.0691667, 0.12], abs=5e-8)
    assert classwise_calibration_error(P, Y, num_bins=5) == pytest.approx(0.1027778, abs=5e-8)
    assert kolmogorov_smirnov_error(P, Y) == pytest.approx(0.0966667, abs=5e-8)
    assert aurc(P, Y) == pytest.approx(0.1094006, abs=5e-8)
    assert optimal_aurc(3, 12) == pytest.approx(0.0443182, abs=5e-8)
    assert e_aurc(P, Y) == pytest.approx(0.0650824, abs=5e-8)
    assert augrc(P, Y) == pytest.approx(0.0902778, abs=5e-8)
    assert balance_score(P, Y) == pytest.approx(0.75 - 0.6675, abs=1e-12)
    assert top_label_brier(TopLabel.from_probabilities(P, Y)) == pytest.approx(0.1597083, abs=5e-8)


def test_smooth_error_of_twelve_samples_is_the_fixed_point() -> None:
    """relplot 1.0.3 stops its search for the bandwidth within 1/1024, on a mesh of 200 points: 0.1037870."""
    found = smooth_calibration_error(P, Y)
    assert found == pytest.approx(0.1037870, abs=1e-3)
    assert smooth_calibration_error(P, Y, bandwidth=found) == pytest.approx(found, abs=1e-8)


def test_one_row_alone_has_errors_that_can_be_seen() -> None:
    """Confidence 0.8 and wrong: every gap is 0.8; nothing is left for chance to explain, or to rank."""
    p, y = two_class([0.8], [0])
    for error in (
        expected_calibration_error,
        adaptive_calibration_error,
        maximum_calibration_error,
        root_mean_square_calibration_error,
        kolmogorov_smirnov_error,
    ):
        assert error(p, y) == pytest.approx(0.8)
    assert balance_score(p, y) == pytest.approx(-0.8)
    assert debiased_squared_calibration_error(p, y) == 0  # a bin of one row says nothing
    assert (aurc(p, y), e_aurc(p, y), augrc(p, y)) == (1, 0, 1)
    assert smooth_calibration_error(p, y, bandwidth=50.0) == pytest.approx(0.8)  # all of it, wherever it lies


def test_equal_mass_groups_are_cut_by_position_and_the_larger_come_first() -> None:
    values = np.array([0.5, 0.1, 0.4, 0.2, 0.3])
    assert equal_mass_index(values, 3).tolist() == [2, 0, 1, 0, 1]
    assert equal_mass_index(values, 7).tolist() == [4, 0, 3, 1, 2]  # two groups stay empty
    assert equal_mass_index(np.full(4, 0.5), 2).tolist() == [0, 0, 1, 1]  # equal values in the order given


def test_empty_bins_are_counted_by_either_rule() -> None:
    p, y = two_class([0.9, 0.95, 0.7], [1, 0, 1])
    assert reliability(p, y, num_bins=4).num_empty == 2
    assert reliability(p, y, num_bins=4, binning="equal_mass").num_empty == 1
    assert all_metrics(np.log(P), Y, num_bins=5)["empty_bins"] == 2


def test_equal_confidences_are_ranked_by_no_luck() -> None:
    """One error among three rows of equal confidence: a third of an error each."""
    for correct in ([0, 1, 1], [1, 0, 1], [1, 1, 0]):
        p, y = two_class([0.75] * 3, correct)
        curve = risk_coverage(p, y)
        assert curve.risk == pytest.approx([1 / 3] * 3)
        assert curve.coverage == pytest.approx([1 / 3, 2 / 3, 1])
        assert aurc(p, y) == pytest.approx(1 / 3)
        assert augrc(p, y) == pytest.approx((1 / 3 + 2 / 3 + 1) / 9)


def test_the_best_order_has_no_excess_and_its_limit_is_the_closed_form() -> None:
    p, y = two_class([0.95, 0.9, 0.85, 0.8], [1, 1, 1, 0])
    assert aurc(p, y) == pytest.approx(1 / 16)
    assert e_aurc(p, y) == 0
    error = 0.2
    limit = error + (1 - error) * math.log(1 - error)
    assert optimal_aurc(200_000, 1_000_000) == pytest.approx(limit, abs=1e-5)
    assert abs(optimal_aurc(2, 10) - limit) > 0.005  # why the exact one is taken


def test_brier_parts_of_bins_add_up_only_with_what_varies_inside() -> None:
    parts = brier_decomposition(P, Y, num_bins=5)
    assert parts.brier == pytest.approx(0.3454667, abs=5e-8)
    assert parts.uncertainty == pytest.approx(1 - 3 * (4 / 12) ** 2)
    assert abs(parts.within_bins) > 0.01
    halves = np.repeat([[0.5, 0.5], [0.8, 0.2]], 5, axis=0)
    labels = np.array([0, 1, 0, 1, 1, 0, 0, 0, 0, 1])
    exact = brier_decomposition(halves, labels, num_bins=10)
    assert exact.within_bins == pytest.approx(0, abs=1e-15)
    assert exact.reliability == pytest.approx(2 * 0.5 * 0.1**2)  # 2 of 5 where 0.5 was said, 4 of 5 where 0.8
    assert exact.resolution == pytest.approx(2 * 0.2**2)


def test_a_class_without_rows_is_marked_and_left_out_of_the_mean() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    each = classwise_calibration_errors(p, [0, 1], num_bins=1)
    assert each[:2] == pytest.approx([0.05, 0.2])
    assert np.isnan(each[2])
    assert classwise_calibration_error(p, [0, 1], num_bins=1) == pytest.approx(0.125)


def test_the_reported_maximum_leaves_out_bins_of_a_single_row() -> None:
    """Two rows at 0.9, one of them right, are 0.4 off; the single wrong row at 0.6 is 0.6 off by chance."""
    p, y = two_class([0.9, 0.9, 0.6], [1, 0, 0])
    assert maximum_calibration_error(p, y) == pytest.approx(0.6)
    assert all_metrics(np.log(p), y)["mce"] == pytest.approx(0.4)
    alone, label = two_class([0.9], [1])
    assert np.isnan(all_metrics(np.log(alone), label)["mce"])


def test_true_errors_at_three_levels() -> None:
    """Confidences 0.6 and 0.6 whose truths are 0.4 and 0.8 are right on average, and each is 0.2 off."""
    predicted, truth = np.array([[0.6, 0.4], [0.6, 0.4]]), np.array([[0.4, 0.6], [0.8, 0.2]])
    assert true_calibration_error(predicted, truth) == pytest.approx(0.2)
    assert true_calibration_error(predicted, truth, level="binned") == pytest.approx(0, abs=1e-12)
    assert true_calibration_error(predicted, truth, level="kernel") == pytest.approx(0, abs=1e-9)


def test_all_metrics_holds_every_name_once_and_the_standard_ones_unchanged() -> None:
    logits = np.log(P)
    found = all_metrics(logits, Y)
    assert found.keys() == STANDARD_METRICS.keys() | CALIBRATION_METRICS.keys()
    assert {name: found[name] for name in STANDARD_METRICS} == standard_metrics(logits, Y)
    assert STANDARD_METRICS.keys().isdisjoint(CALIBRATION_METRICS)
    assert found != all_metrics(logits, Y, seed=1)
    assert found == all_metrics(logits, Y, seed=0)
