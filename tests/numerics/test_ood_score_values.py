"""OOD scores against published values, closed forms, and brute-force twins."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import nn

from pruneyard.testing.cases import each_case
from pruneyard.testing.sample_evidence import (
    evidence_of_features,
    evidence_of_logits,
    images,
    network,
    network_evidence,
    num_pixels,
    random_evidence,
    score_rows,
)
from pruneyard.workloads.calibrate.evidence import Floats, evidence_of
from pruneyard.workloads.calibrate.scores.ash import ASH
from pruneyard.workloads.calibrate.scores.dice import DICE
from pruneyard.workloads.calibrate.scores.energy import Energy
from pruneyard.workloads.calibrate.scores.gaussian import Gaussian
from pruneyard.workloads.calibrate.scores.gen import GEN
from pruneyard.workloads.calibrate.scores.grad_norm import GradNorm
from pruneyard.workloads.calibrate.scores.knn import KNN, kth_squared_distance, unit_length
from pruneyard.workloads.calibrate.scores.mahalanobis import Mahalanobis
from pruneyard.workloads.calibrate.scores.max_logit import MaxLogit
from pruneyard.workloads.calibrate.scores.msp import MSP
from pruneyard.workloads.calibrate.scores.odin import ODIN
from pruneyard.workloads.calibrate.scores.react import ReAct
from pruneyard.workloads.calibrate.scores.relative_mahalanobis import RelativeMahalanobis
from pruneyard.workloads.calibrate.scores.scale import Scale
from pruneyard.workloads.calibrate.scores.vim import ViM

GOLDEN = evidence_of_logits([[2.0, 1.0, 0.0, -1.0]])
ACTIVATIONS = np.array([[4.0, 3.0, 2.0, 1.0]])


def log_softmax(logits: Floats) -> Floats:
    return np.asarray(logits - logsumexp(logits, axis=1, keepdims=True))


# Values worked by hand or published


def test_golden_values_of_one_row_of_logits() -> None:
    assert np.exp(score_rows(MSP(), GOLDEN)) == pytest.approx([0.6439143], abs=5e-8)
    assert score_rows(Energy(), GOLDEN) == pytest.approx([2.4401897], abs=5e-8)
    assert score_rows(MaxLogit(), GOLDEN) == [2.0]


def test_golden_gradient_length_for_uniform_targets_and_for_targets_of_one() -> None:
    weight = np.outer([2.0, 1.0, 0.0, -1.0], [1 / 14, 2 / 14, 3 / 14])  # gives these logits for h = (1, 2, 3)
    rows = evidence_of_features([[1.0, 2.0, 3.0]], weight, np.zeros(4))
    assert rows.logits == pytest.approx(GOLDEN.logits, abs=1e-12)
    assert score_rows(GradNorm(), rows) == pytest.approx([4.7269711], abs=5e-8)
    assert 4 * score_rows(GradNorm(), rows) == pytest.approx([18.9078845], abs=5e-8)


@each_case(
    ("score", "shaped"),
    [
        (ASH(variant="p", prune=0.5), [4, 3, 0, 0]),
        (ASH(variant="b", prune=0.5), [5, 5, 0, 0]),
        (ASH(variant="s", prune=0.5), [16.6909, 12.5182, 0, 0]),
        (Scale(prune=0.5), [16.6909, 12.5182, 8.3455, 4.1727]),
    ],
)
def test_golden_activations_after_shaping(score: ASH | Scale, shaped: list[float]) -> None:
    assert score.shape(ACTIVATIONS)[0] == pytest.approx(shaped, abs=5e-5)


def test_dice_keeps_the_largest_contributions_of_all_classes_together() -> None:
    """Mean features 1 and 2: contributions (3, 2), (-1, 8). The larger half keeps W_00 and W_11."""
    train = evidence_of_features([[0.0, 4.0], [2.0, 0.0]], [[3.0, 1.0], [-1.0, 4.0]], [0.5, -0.5])
    found = score_rows(DICE(drop=0.5), train, train=train)
    assert found == pytest.approx(logsumexp([[0.5, 15.5], [6.5, -0.5]], axis=1))


def test_react_cuts_at_a_quantile_of_all_activations() -> None:
    train = evidence_of_features([[0.0, 1.0], [2.0, 3.0], [4.0, 8.0]], np.eye(2), np.zeros(2))
    fitted = ReAct(quantile=0.8).fit(train, seed=0)
    assert fitted.numbers == {"ceiling": 4.0}
    assert fitted.score(train) == pytest.approx(logsumexp([[0, 1], [2, 3], [4, 4]], axis=1))


def test_vim_subtracts_the_residual_outside_the_principal_direction() -> None:
    """Two features, no bias: the origin is 0 and the principal direction the first axis, along which the rows spread most."""
    train = evidence_of_features([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]], np.eye(2), np.zeros(2))
    fitted = ViM(principal=0.5).fit(train, seed=0)
    assert fitted.numbers == {
        "alpha": pytest.approx(1.5),
        "dimension": 1,
    }  # largest logits 3, 1, 3, -1; residuals 1
    rows = evidence_of_features([[2.0, 0.0], [2.0, 4.0]], np.eye(2), np.zeros(2))
    assert fitted.score(rows) == pytest.approx(logsumexp(rows.logits, axis=1) - [0, 6])


# Brute-force twins


def test_mahalanobis_by_loops_over_rows_and_classes() -> None:
    train, rows = random_evidence(31), random_evidence(7, seed=1)
    h, labels, shrinkage = train.features, train.class_labels, 0.03
    means = [h[labels == k].mean(axis=0) for k in range(3)]
    tied = sum(np.outer(x - means[k], x - means[k]) for x, k in zip(h, labels, strict=True)) / len(h)
    background = sum(np.outer(x - h.mean(axis=0), x - h.mean(axis=0)) for x in h) / len(h)

    def precision(covariance: Floats) -> Floats:
        identity = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
        return np.linalg.inv((1 - shrinkage) * covariance + shrinkage * identity)

    def squared(x: Floats, mean: Floats, inverse: Floats) -> float:
        return float((x - mean) @ inverse @ (x - mean))

    near = [min(squared(x, mean, precision(tied)) for mean in means) for x in rows.features]
    far = [squared(x, h.mean(axis=0), precision(background)) for x in rows.features]
    assert score_rows(Mahalanobis(shrinkage=shrinkage), rows, train=train) == pytest.approx(-np.array(near))
    expected = np.array(far) - np.array(near)
    assert score_rows(RelativeMahalanobis(shrinkage=shrinkage), rows, train=train) == pytest.approx(expected)


def test_gaussian_is_the_log_density_that_scipy_gives() -> None:
    train, rows = random_evidence(50), random_evidence(7, seed=1)
    h = train.features
    twin = multivariate_normal(h.mean(axis=0), np.cov(h, rowvar=False, bias=True))
    assert score_rows(Gaussian(shrinkage=0.0), rows, train=train) == pytest.approx(twin.logpdf(rows.features))


@each_case("distances_at_once", [1, 100, 10**6])
def test_the_kth_neighbour_by_sorting_all_distances(distances_at_once: int) -> None:
    train, rows = random_evidence(40), random_evidence(11, seed=1)
    bank, queries = unit_length(train.features), unit_length(rows.features)
    for k in (1, 7, 40):
        brute = [sorted(float(((x - y) ** 2).sum()) for y in bank)[k - 1] for x in queries]
        found = kth_squared_distance(queries, bank, k, distances_at_once=distances_at_once)
        assert found == pytest.approx(brute, abs=1e-14)
        assert score_rows(KNN(k=k), rows, train=train) == pytest.approx(-np.array(brute), abs=1e-14)


def test_a_bank_of_a_share_holds_that_many_training_rows() -> None:
    train = random_evidence(40)
    nearest = KNN(k=1, train_fraction=0.25).fit(train, seed=0)
    assert nearest.numbers == {"bank": 10}
    assert (nearest.score(train) > -1e-14).sum() == 10  # rows of the bank find themselves
    other = KNN(k=1, train_fraction=0.25).fit(train, seed=1)
    assert (nearest.score(train) != other.score(train)).any()


def test_the_gradient_length_is_that_of_autograd() -> None:
    rows = random_evidence(9, num_extra=1)
    weight, bias = rows.class_layer
    layer = nn.Linear(weight.shape[1], len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    expected = []
    for feature in torch.from_numpy(rows.features):
        layer.zero_grad()
        uniform = torch.full((1, len(bias)), 1 / len(bias), dtype=torch.float64)
        nn.functional.cross_entropy(layer(feature[None]), uniform).backward()
        assert layer.weight.grad is not None
        expected.append(float(layer.weight.grad.abs().sum()))
    assert score_rows(GradNorm(), rows) == pytest.approx(expected)


@each_case("top", [1, 2, 4, 100])
def test_generalised_entropy_by_loops(top: int) -> None:
    logits = np.random.default_rng(0).normal(size=(6, 4)) * 3
    for row, found in zip(logits, score_rows(GEN(gamma=0.3, top=top), evidence_of_logits(logits)), strict=True):
        p = np.sort(np.exp(row) / np.exp(row).sum())[::-1][:top]
        assert found == pytest.approx(-sum(x**0.3 * (1 - x) ** 0.3 for x in p))


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_of_a_linear_network_moves_the_image_by_its_known_gradient(temperature: float) -> None:
    """dCE/dx = W'(softmax(z / T) - one-hot) / T, and a step in normalised images of eps / std of the channel."""
    rows = evidence_of(network({"name": "mlp", "depth": 0}), images(12), batch_size=5)
    weight, bias = rows.class_layer
    x = rows.features.astype(np.float64)  # the flattened normalised image
    p = np.exp(log_softmax(rows.class_logits / temperature))
    onehot = np.eye(3)[rows.logits.argmax(axis=1)]
    std = np.repeat([0.25, 0.5], num_pixels() // 2)
    moved = x - 0.01 / std * np.sign((p - onehot) @ weight)
    expected = log_softmax((moved @ weight.T + bias) / temperature).max(axis=1)
    found = score_rows(ODIN(temperature=temperature, eps=0.01), rows)
    assert found == pytest.approx(expected, abs=1e-5 / temperature)  # the network computes in float32
    assert (found > score_rows(ODIN(temperature=temperature, eps=0.0), rows)).all()


def test_odin_works_under_no_grad_and_changes_no_state() -> None:
    rows, score = network_evidence(9), ODIN(eps=0.01)
    usual = score_rows(score, rows)
    with torch.inference_mode():
        assert (score_rows(score, rows) == usual).all()
    with torch.no_grad():
        assert (score_rows(score, rows) == usual).all()
    assert all(parameter.grad is None for parameter in rows.run_again.network.parameters())


def test_odin_scores_a_row_independently_of_its_batch() -> None:
    finished, split = network(), images(12)
    together = score_rows(ODIN(eps=0.01), evidence_of(finished, split, batch_size=12))
    alone = score_rows(ODIN(eps=0.01), evidence_of(finished, split, batch_size=1))
    assert together == pytest.approx(alone, abs=1e-7)
