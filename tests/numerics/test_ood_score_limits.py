"""OOD scores at their limits, and the inputs that they refuse."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.special import logsumexp

from pruneyard.testing.cases import each_case
from pruneyard.testing.sample_evidence import (
    evidence_of_features,
    evidence_of_logits,
    network_evidence,
    random_evidence,
    score_rows,
    select_rows,
)
from pruneyard.workloads.calibrate.evidence import Evidence, LastLayer
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.scores.ash import ASH
from pruneyard.workloads.calibrate.scores.dice import DICE
from pruneyard.workloads.calibrate.scores.energy import Energy
from pruneyard.workloads.calibrate.scores.gaussian import Gaussian
from pruneyard.workloads.calibrate.scores.gen import GEN
from pruneyard.workloads.calibrate.scores.grad_norm import GradNorm
from pruneyard.workloads.calibrate.scores.knn import KNN
from pruneyard.workloads.calibrate.scores.mahalanobis import Mahalanobis
from pruneyard.workloads.calibrate.scores.max_logit import MaxLogit
from pruneyard.workloads.calibrate.scores.msp import MSP
from pruneyard.workloads.calibrate.scores.odin import ODIN
from pruneyard.workloads.calibrate.scores.react import ReAct, clipped
from pruneyard.workloads.calibrate.scores.relative_mahalanobis import RelativeMahalanobis
from pruneyard.workloads.calibrate.scores.scale import Scale
from pruneyard.workloads.calibrate.scores.vim import ViM, virtual_logit_score

# What each becomes at a limit


def test_energy_becomes_the_largest_logit_as_temperature_falls() -> None:
    rows = random_evidence(20)
    assert score_rows(Energy(temperature=1e-4), rows) == pytest.approx(score_rows(MaxLogit(), rows), abs=1e-3)


@pytest.mark.parametrize("num_extra", [0, 1])
def test_odin_without_step_and_temperature_is_msp_bit_for_bit(num_extra: int) -> None:
    rows = network_evidence(20, num_extra=num_extra)
    assert (score_rows(ODIN(temperature=1.0, eps=0.0), rows) == score_rows(MSP(), rows)).all()


def test_without_clipping_dropping_or_pruning_the_score_is_energy() -> None:
    train, rows = random_evidence(30, num_extra=1), random_evidence(20, num_extra=1, seed=1)
    energy = pytest.approx(score_rows(Energy(), rows), rel=1e-12)
    assert clipped(math.inf)(rows) == energy
    assert score_rows(DICE(drop=0.0), rows, train=train) == energy
    assert score_rows(ASH(variant="p", prune=0.0), rows) == energy
    width = rows.features.shape[1]
    assert virtual_logit_score(rows, np.zeros(width), np.eye(width)[:, :2], 0.0) == energy
    assert score_rows(ReAct(quantile=1.0), train, train=train) == pytest.approx(
        score_rows(Energy(), train), rel=1e-12
    )


def test_scaling_by_all_activations_multiplies_them_by_e() -> None:
    rows = random_evidence(20)
    weight, bias = rows.class_layer
    expected = logsumexp(math.e * rows.features @ weight.T + bias, axis=1)
    assert score_rows(Scale(prune=0.0), rows) == pytest.approx(expected)
    assert score_rows(ASH(variant="s", prune=0.0), rows) == pytest.approx(expected)


def test_full_shrinkage_measures_euclidean_distance() -> None:
    train, rows = random_evidence(30), random_evidence(20, seed=1)
    labels = train.class_labels
    means = np.array([train.features[labels == k].mean(axis=0) for k in range(3)])
    variance = ((train.features - means[labels]) ** 2).mean()
    squares = ((rows.features[:, None] - means) ** 2).sum(axis=2).min(axis=1)
    assert score_rows(Mahalanobis(shrinkage=1.0), rows, train=train) == pytest.approx(-squares / variance)


def test_the_relative_distance_is_mahalanobis_less_twice_the_gaussian_s_log_density() -> None:
    train, rows = random_evidence(30), random_evidence(20, seed=1)
    relative, near, density = (
        score_rows(score, rows, train=train) for score in (RelativeMahalanobis(), Mahalanobis(), Gaussian())
    )
    assert np.ptp(relative - (near - 2 * density)) == pytest.approx(0, abs=1e-9)


def test_with_classes_that_share_a_mean_nothing_is_left_of_the_relative_distance() -> None:
    half = random_evidence(30)
    h = np.concatenate([half.features, half.features, half.features])
    labels = np.repeat(np.arange(3), 30)
    layer = LastLayer(features=h, weight=np.eye(3, h.shape[1]), bias=np.zeros(3))
    train = Evidence(logits=h[:, :3], labels=labels, last_layer=layer)
    assert score_rows(RelativeMahalanobis(), train, train=train) == pytest.approx(np.zeros(90), abs=1e-9)


def test_generalised_entropy_of_two_classes_ranks_as_msp_and_distinguishes_saturated_rows() -> None:
    logits = np.array([[gap, 0.0] for gap in (0.1, 0.5, 3, 20, 36, 37, 38, 60, 200)])
    found = score_rows(GEN(), evidence_of_logits(logits))
    assert (np.diff(found) > 0).all()
    assert (np.diff(score_rows(MSP(), evidence_of_logits(logits))) > 0).all()


def test_outputs_that_are_no_classes_count_for_the_softmax_of_msp_alone() -> None:
    rows = random_evidence(20, num_extra=2)
    layer = rows.last_layer
    assert layer is not None
    classes = dataclasses.replace(
        rows,
        logits=rows.logits[:, :3],
        num_extra=0,
        last_layer=dataclasses.replace(layer, weight=layer.weight[:3], bias=layer.bias[:3]),
    )
    train, of_classes = (select_rows(part, np.arange(15)) for part in (rows, classes))
    for score in (
        Energy(),
        MaxLogit(),
        GradNorm(),
        ASH(),
        Scale(),
        DICE(),
        ReAct(),
        ViM(),
        Mahalanobis(),
        KNN(k=2),
    ):
        found, expected = score_rows(score, rows, train=train), score_rows(score, classes, train=of_classes)
        assert found == pytest.approx(expected), score
    assert (score_rows(MSP(), rows) < score_rows(MSP(), classes)).all()


# What cannot be scored


def test_rows_of_zeros_keep_a_score() -> None:
    train = random_evidence(30)
    weight, bias = train.class_layer
    dark = evidence_of_features(np.zeros((2, weight.shape[1])), weight, bias)
    at_bias = pytest.approx(np.full(2, logsumexp(bias)))
    for score in (ASH(variant="b"), ASH(variant="s"), ASH(variant="p"), Scale()):
        assert score_rows(score, dark) == at_bias, score
    assert score_rows(KNN(k=3), dark, train=train) == pytest.approx([-1, -1])


def test_a_score_that_overflows_is_refused_by_row() -> None:
    h = np.zeros((2, 2000))
    h[:, 0], h[1] = 1.0, 1.0  # one kept of 2000 equal ones: multiplied by exp(2000)
    with pytest.raises(ValueError, match="row 1 has ash score"):
        score_rows(ASH(variant="s", prune=0.9999), evidence_of_features(h, np.ones((2, 2000)), np.zeros(2)))


def test_negative_activations_are_refused_where_they_are_ranked() -> None:
    rows = evidence_of_features([[1.0, 1.0], [1.0, -2.0]], np.eye(2), np.zeros(2))
    for score in (ASH(), Scale()):
        with pytest.raises(ValueError, match=r"row 1 has feature -2\.0; activations must not be negative"):
            score_rows(score, rows)


def relabelled(labels: list[int]) -> Evidence:
    return dataclasses.replace(random_evidence(len(labels)), labels=np.array(labels))


@pytest.mark.parametrize("score", [Mahalanobis(), RelativeMahalanobis()])
def test_a_class_of_one_row_and_rows_of_no_class_are_refused(score: Score) -> None:
    with pytest.raises(ValueError, match="class 2 has 1 training samples; it needs at least 2"):
        score.fit(relabelled([0, 0, 1, 1, 2]), seed=0)
    with pytest.raises(ValueError, match="row 1 has label -1"):
        score.fit(relabelled([0, -1, 1, 1, 2]), seed=0)


def test_dead_units_make_the_covariance_singular_and_shrinkage_fixes_it() -> None:
    train = random_evidence(30)
    weight, bias = train.class_layer
    dead = np.c_[train.features, np.zeros(30)]
    with_dead = evidence_of_features(dead, np.c_[weight, np.ones(3)], bias, labels=train.labels)
    woken = evidence_of_features(dead + np.eye(7)[6], np.c_[weight, np.ones(3)], bias)
    for score in (Mahalanobis, Gaussian, RelativeMahalanobis):
        with pytest.raises(
            ValueError, match=r"shrinkage is 0\.0, for which the covariance of 7 features is singular"
        ):
            score(shrinkage=0.0).fit(with_dead, seed=0)
        assert np.isfinite(score_rows(score(), with_dead, train=with_dead)).all()
    fixed = Mahalanobis().fit(with_dead, seed=0)
    assert (fixed.score(woken) < fixed.score(with_dead) - 100).all()  # a dead unit that wakes is unknown


def test_features_that_teach_nothing_are_refused() -> None:
    flat = evidence_of_features(np.ones((6, 3)), np.eye(3), np.zeros(3), labels=np.arange(6) % 3)
    for score in (Mahalanobis(), Gaussian()):
        with pytest.raises(ValueError, match="no variance"):
            score.fit(flat, seed=0)
    with pytest.raises(ValueError, match="the training features have no residual"):
        ViM(principal=0.4).fit(flat, seed=0)
    with pytest.raises(ValueError, match=r"k is 7; it must be at most 6"):
        KNN(k=7).fit(flat, seed=0)
    dull = evidence_of_features([[1.0, 2.0], [2.0, 1.0]], -np.eye(2), np.zeros(2))
    with pytest.raises(
        ValueError, match=r"mean largest logit of the training rows is -1; it must be above 0"
    ):
        ViM().fit(dull, seed=0)


@each_case(
    ("score", "options", "message"),
    [
        (Energy, {"temperature": 0.0}, r"temperature is 0\.0; it must be above 0"),
        (ODIN, {"temperature": -1.0}, r"temperature is -1\.0"),
        (ODIN, {"eps": -0.1}, r"eps is -0\.1; it must be 0 or more"),
        (GEN, {"gamma": 0.0}, r"gamma is 0\.0; it must lie in \(0, 1\]"),
        (GEN, {"top": 0}, "top is 0; it must be 1 or more"),
        (Mahalanobis, {"shrinkage": 1.5}, r"shrinkage is 1\.5; it must lie in \[0, 1\]"),
        (RelativeMahalanobis, {"shrinkage": -1.0}, r"shrinkage is -1\.0"),
        (Gaussian, {"shrinkage": math.nan}, "shrinkage is nan"),
        (KNN, {"k": 0}, "k is 0; it must be 1 or more"),
        (KNN, {"train_fraction": 0.0}, r"train_fraction is 0\.0; it must lie in \(0, 1\]"),
        (ReAct, {"quantile": 0.0}, r"quantile is 0\.0; it must lie in \(0, 1\]"),
        (DICE, {"drop": 1.0}, r"drop is 1\.0; it must lie in \[0, 1\)"),
        (ASH, {"variant": "x"}, "variant is 'x'; it must be b, p or s"),
        (ASH, {"prune": 1.0}, r"prune is 1\.0; it must lie in \[0, 1\)"),
        (Scale, {"prune": -0.1}, r"prune is -0\.1"),
        (ViM, {"principal": 1.0}, r"principal is 1\.0; it must lie in \(0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(
    score: type[Score], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(**options)


def test_the_accuracy_of_a_changed_network_is_that_of_its_own_logits() -> None:
    """Clipped at 1, features (3, 2) give logits (1, 1.5) instead of (3, 2.5); the other row keeps its class."""
    features, weight, bias = np.array([[3.0, 2.0], [0.0, 1.0]]), np.eye(2), np.array([0.0, 0.5])
    layer = LastLayer(features=features, weight=weight, bias=bias)
    rows = Evidence(logits=features @ weight.T + bias, labels=np.array([0, 1]), last_layer=layer)
    assert [clipped(ceiling).accuracy(rows) for ceiling in (math.inf, 1.0)] == [1.0, 0.5]
    assert Energy().fit(None, seed=0).accuracy(rows) is None
    assert ASH(variant="p", prune=0.0).fit(None, seed=0).accuracy(rows) == 1.0
    assert ASH(variant="p", prune=0.5).fit(None, seed=0).accuracy(rows) == 1.0  # (3, 0.5) and (0, 1.5)
