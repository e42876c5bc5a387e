import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from pruneyard.workloads.metrics.classification import STANDARD_METRICS
from pruneyard.workloads.nodes.rare_metrics import RARE_METRICS, rare_metrics


def drawn(num: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities and labels that a calibrated network would have."""
    draws = np.random.default_rng(0)
    p = draws.beta(0.6, 2.0, num)
    return np.stack([1 - p, p], axis=1), (draws.random(num) < p).astype(np.int64)


def test_by_hand() -> None:
    """Predicted 1, 1, 0, 0, 0; true 1, 0, 1, 0, 0."""
    p = np.array([0.9, 0.6, 0.3, 0.2, 0.1])
    found = rare_metrics(np.stack([1 - p, p], axis=1), [1, 0, 1, 0, 0])
    assert found["recall_minority"] == 0.5
    assert found["precision_minority"] == 0.5
    assert found["macro_f1"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert found["gap_predicted_minority"] == pytest.approx(0.5 - 0.75)
    assert found["gap_predicted_majority"] == pytest.approx(2 / 3 - 0.8)
    assert found["gap_true_minority"] == pytest.approx(0.5 - (0.9 + 0.7) / 2)
    assert found["gap_true_majority"] == pytest.approx(2 / 3 - (0.6 + 0.8 + 0.9) / 3)
    assert found["ece_20"] == pytest.approx((0.1 + 0.6 + 0.7 + 0.2 + 0.1) / 5)
    assert found["ece_20_true_minority"] == pytest.approx((0.1 + 0.7) / 2)
    assert found["ace_20_predicted_majority"] == pytest.approx((0.7 + 0.2 + 0.1) / 3)


def test_recall_precision_and_f1_are_those_of_scikit_learn() -> None:
    p, y = drawn()
    found, predicted = rare_metrics(p, y), p.argmax(axis=1)
    assert found["recall_minority"] == pytest.approx(recall_score(y, predicted))
    assert found["precision_minority"] == pytest.approx(precision_score(y, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(y, predicted, average="macro"))


def test_a_calibrated_network_has_no_gap_by_predicted_class_but_one_by_true_class() -> None:
    found = rare_metrics(*drawn(200_000))
    for name in ("minority", "majority"):
        assert abs(found[f"gap_predicted_{name}"]) < 0.005
        assert found[f"ece_20_predicted_{name}"] < 0.01
    assert found["gap_true_minority"] < -0.2
    assert found["ece_20_true_minority"] > 0.2


def test_the_order_of_rows_does_not_matter() -> None:
    p, y = drawn()
    order = np.random.default_rng(1).permutation(len(y))
    assert rare_metrics(p[order], y[order]) == pytest.approx(rare_metrics(p, y))


def test_what_has_no_nodes_is_left_out() -> None:
    found = rare_metrics([[0.8, 0.2], [0.6, 0.4]], [0, 0])
    assert found["macro_f1"] == 0.5
    assert not [name for name in found if name.endswith("minority")]
    assert all(np.isfinite(list(found.values())))


def test_all_that_is_computed_is_described() -> None:
    described = {*RARE_METRICS, *STANDARD_METRICS}
    found = rare_metrics(*drawn())
    plain = {name for name in found if not name.startswith(("ece_20_", "ace_20_"))}
    assert plain <= described
    assert {name for name in found if name.startswith("ece_20_")} == {
        f"ece_20_{way}_{group}" for way in ("predicted", "true") for group in ("minority", "majority")
    }


def test_more_than_two_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="probabilities have 3 columns; they must have 2"):
        rare_metrics([[0.2, 0.3, 0.5]], [1])
