"""OOD detection metrics against values worked by hand, brute-force twins and scikit-learn."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from pruneyard.testing.cases import each_case
from pruneyard.workloads.metrics.classification import class_probabilities
from pruneyard.workloads.metrics.detection import (
    DETECTION_METRICS,
    aupr_in,
    aupr_out,
    auroc,
    confidence_scores,
    correct_rate_at,
    detection_metrics,
    fpr95,
    fpr95_out,
)

KNOWN, UNKNOWN = [0.9, 0.8, 0.8, 0.4], [0.8, 0.5, 0.1]
scores = st.lists(st.integers(-5, 5), min_size=1, max_size=45)  # few values, hence many ties


def test_golden_values_of_four_in_distribution_and_three_ood_inputs() -> None:
    """Pairs won: 3, 2.5, 2.5 and 1 of 3. Precisions where recall rises: 1, 3/4 (twice), 4/6; the other way 1, 2/3, 3/6."""
    assert auroc(KNOWN, UNKNOWN) == pytest.approx(9 / 12, abs=1e-15)
    assert aupr_in(KNOWN, UNKNOWN) == pytest.approx((1 + 2 * 3 / 4 + 4 / 6) / 4, abs=1e-15)
    assert aupr_out(KNOWN, UNKNOWN) == pytest.approx((1 + 2 / 3 + 3 / 6) / 3, abs=1e-15)
    assert fpr95(KNOWN, UNKNOWN) == pytest.approx(2 / 3, abs=1e-15)
    assert fpr95_out(KNOWN, UNKNOWN) == 3 / 4  # all unknown ones must go, and with 0.8 three known ones


def test_the_threshold_of_fpr95_rejects_one_known_input_in_twenty_and_accepts_ties() -> None:
    unknown = [1.0, 1.5, 2.0, 2.5]
    assert fpr95(range(1, 20), unknown) == 1.0  # 19 known: all must be accepted
    assert fpr95(range(1, 21), unknown) == 0.5  # 20: the smallest may be rejected, the threshold is 2
    assert fpr95(range(1, 40), unknown) == 0.5  # 39: still one only
    assert fpr95(range(1, 41), unknown) == 0.0  # 40: two may be, the threshold is 3
    assert fpr95([1, 1, *range(3, 21)], unknown) == 1.0  # both of the equal ones would have to go


def test_perfect_reversed_and_blind_detectors() -> None:
    best = {"auroc": 1.0, "aupr_in": 1.0, "aupr_out": 1.0, "fpr95": 0.0, "fpr95_out": 0.0}
    assert detection_metrics([2, 3, 4], [0, 1]) == best
    assert best.keys() == DETECTION_METRICS.keys()
    assert auroc([0, 1], [2, 3, 4]) == 0.0
    assert fpr95([0, 1], [2, 3, 4]) == 1.0
    blind = detection_metrics([0.5] * 3, [0.5] * 5)
    assert blind == {"auroc": 0.5, "aupr_in": 3 / 8, "aupr_out": 5 / 8, "fpr95": 1.0, "fpr95_out": 1.0}


@given(scores, scores)
def test_auroc_counts_pairs(known: list[int], unknown: list[int]) -> None:
    won = sum(Fraction((k > u) * 2 + (k == u), 2) for k in known for u in unknown)
    assert auroc(known, unknown) == pytest.approx(float(won / (len(known) * len(unknown))), abs=1e-15)


@given(scores, scores)
def test_fpr95_tries_every_threshold(known: list[int], unknown: list[int]) -> None:
    enough = [t for t in known if Fraction(sum(k >= t for k in known), len(known)) >= Fraction(95, 100)]
    assert fpr95(known, unknown) == sum(u >= max(enough) for u in unknown) / len(unknown)


@given(scores, scores)
def test_fpr95_out_tries_every_threshold(known: list[int], unknown: list[int]) -> None:
    enough = [t for t in unknown if Fraction(sum(u <= t for u in unknown), len(unknown)) >= Fraction(95, 100)]
    assert fpr95_out(known, unknown) == sum(k <= min(enough) for k in known) / len(known)


def test_the_two_conventions_of_fpr95_differ_where_one_kind_is_spread_and_the_areas_are_blind_to_it() -> None:
    tight, spread = np.arange(100) / 100, np.r_[np.arange(90) / 100 - 2, 2 * np.ones(10)]
    assert (fpr95(tight, spread), fpr95_out(tight, spread)) == (0.1, 1.0)
    assert auroc(tight, spread) == 0.9


@given(scores, scores, st.integers(0, 10_000), st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.9]))
def test_ccr_tries_every_threshold(known: list[int], unknown: list[int], seed: int, accepted: float) -> None:
    correct = np.random.default_rng(seed).random(len(known)) < 0.7
    allowed = [t for t in [*unknown, max(unknown)] if sum(u > t for u in unknown) <= accepted * len(unknown) + 1e-12]
    best = sum(hit for k, hit in zip(known, correct, strict=True) if k > min(allowed)) / len(known)
    assert correct_rate_at(known, correct, unknown, accepted=accepted) == pytest.approx(best, abs=1e-15)


def test_ccr_refuses_invalid_predictions() -> None:
    with pytest.raises(ValueError, match="correct is int64"):
        correct_rate_at([1.0], [1], [0.0], accepted=0.1)
    with pytest.raises(ValueError, match="accepted is 1"):
        correct_rate_at([1.0], [True], [0.0], accepted=1)


@given(scores, scores)
def test_areas_agree_with_scikit_learn(known: list[int], unknown: list[int]) -> None:
    is_known, score = np.r_[np.ones(len(known)), np.zeros(len(unknown))], np.array(known + unknown, dtype=float)
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(is_known, score), abs=1e-12)
    assert aupr_in(known, unknown) == pytest.approx(average_precision_score(is_known, score), abs=1e-12)
    assert aupr_out(known, unknown) == pytest.approx(average_precision_score(1 - is_known, -score), abs=1e-12)


@given(scores, scores)
def test_swapping_the_roles_mirrors_and_a_rising_transform_changes_nothing(known: list[int], unknown: list[int]) -> None:
    k, u = np.array(known), np.array(unknown)
    assert auroc(k, u) + auroc(u, k) == pytest.approx(1, abs=1e-15)
    assert auroc(-u, -k) == auroc(k, u)
    assert aupr_in(-u, -k) == aupr_out(k, u)
    assert detection_metrics(k**3 + k - 7, u**3 + u - 7) == detection_metrics(k, u)
    assert detection_metrics(np.flip(k), np.flip(u)) == detection_metrics(k, u)


def test_confidence_is_the_largest_known_probability_of_the_softmax_over_all_outputs() -> None:
    logits = np.log([[2.0, 1.0, 5.0], [1.0, 3.0, 4.0]])
    assert np.exp(confidence_scores(logits)) == pytest.approx([5 / 8, 4 / 8])
    assert np.exp(confidence_scores(logits, num_extra=1)) == pytest.approx([2 / 8, 3 / 8])


@given(st.integers(0, 10_000), st.integers(0, 2))
def test_confidence_is_that_of_the_probabilities(seed: int, num_extra: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(7, 3 + num_extra)) * 5
    largest = class_probabilities(logits, num_extra=num_extra).max(axis=1)
    assert np.exp(confidence_scores(logits, num_extra=num_extra)) == pytest.approx(largest, rel=1e-12)


def test_confidences_of_one_are_still_distinguished() -> None:
    saturated = np.array([[50.0, 0.0], [60.0, 0.0], [2000.0, 0.0]], dtype=np.float32)
    assert (class_probabilities(saturated).max(axis=1) == 1).all()
    assert (np.diff(confidence_scores(saturated)) > 0).all()
    assert confidence_scores([[0.0, -1.0, 2000.0]], num_extra=1) == pytest.approx([-2000.0])


@each_case(
    ("known", "unknown", "message"),
    [
        ([], [1.0], "known scores have shape"),
        ([1.0], [], "unknown scores have shape"),
        ([[1.0]], [1.0], "known scores have shape"),
        ([1.0], [0.0, np.nan], "row 1 of the unknown scores is nan"),
        ([np.inf], [0.0], "row 0 of the known scores is inf"),
    ],
)
@each_case("metric", [auroc, aupr_in, aupr_out, fpr95, fpr95_out])
def test_bad_scores_are_refused(metric, known: list[float], unknown: list[float], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        metric(known, unknown)


@each_case(
    ("logits", "num_extra", "message"),
    [
        ([1.0, 2.0], 0, "shape"),
        ([[1.0]], 0, "shape"),
        ([[1.0, 2.0]], 1, r"\(N, K \+ 1\) with K >= 2"),
        ([[1.0, 2.0]], -1, "shape"),
        ([[1.0, np.nan]], 0, "contain NaN or infinity"),
    ],
)
def test_bad_logits_are_refused(logits: object, num_extra: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confidence_scores(logits, num_extra=num_extra)  # type: ignore[arg-type]
