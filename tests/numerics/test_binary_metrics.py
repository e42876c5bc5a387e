"""Metrics of the positive class: equal to scikit-learn's, and one example by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from pruneyard.workloads.metrics.binary import BINARY_METRICS, binary_metrics, positive_reliability


@pytest.mark.parametrize("seed", range(5))
def test_areas_and_brier_score_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.random(80).round(1)  # with many ties
    is_positive = generator.random(80) < probabilities
    found = binary_metrics(probabilities, is_positive)
    assert list(found) == list(BINARY_METRICS)
    assert found["auroc_positive"] == pytest.approx(roc_auc_score(is_positive, probabilities))
    assert found["aupr_positive"] == pytest.approx(average_precision_score(is_positive, probabilities))
    assert found["brier_positive"] == pytest.approx(brier_score_loss(is_positive, probabilities))


def test_the_calibration_error_counts_probabilities_below_one_half_too() -> None:
    """Two bins: 0.2 and 0.4, one of two positive, and 0.9, which is negative."""
    found = binary_metrics([0.2, 0.4, 0.9], [True, False, False], num_bins=2)
    assert found["ece_positive"] == pytest.approx((2 * abs(0.5 - 0.3) + 0.9) / 3)


def test_the_diagram_of_the_positive_class_is_the_one_worked_out_by_hand() -> None:
    """Four bins: (0, 1/4] has 0 and 0.25, one positive; (1/4, 1/2] has 0.3; (1/2, 3/4] is empty; (3/4, 1] has 0.8, 0.9, 1."""
    probabilities = [0.9, 0.0, 0.25, 0.3, 1.0, 0.8]
    is_positive = [True, False, True, False, True, False]
    bins = positive_reliability(probabilities, is_positive, num_bins=4)
    np.testing.assert_allclose(bins.confidence, [0.125, 0.3, math.nan, 0.9])
    np.testing.assert_allclose(bins.accuracy, [0.5, 0.0, math.nan, 2 / 3])
    assert bins.count.tolist() == [2, 1, 0, 3]
    with pytest.raises(ValueError, match=r"they must be \(N,\) and bool \(N,\)"):
        positive_reliability(probabilities, is_positive[1:])


def test_rows_of_one_class_have_no_areas_and_unequal_arrays_are_refused() -> None:
    found = binary_metrics([0.2, 0.4], [True, True])
    assert math.isnan(found["auroc_positive"])
    assert math.isnan(found["aupr_positive"])
    with pytest.raises(ValueError, match=r"they must be \(N,\) and bool \(N,\)"):
        binary_metrics([0.2, 0.4], np.array([True]))
    with pytest.raises(ValueError, match="int64"):
        binary_metrics([0.2, 0.4], np.array([1, 0]))
