"""The fits of large matrices and of many rows: the minimum of the fit in float64, never worse than the start, in few passes."""

import numpy as np
import pytest

from pruneyard.workloads.calibrate import large_fit, large_vector_fit, linear_fit
from pruneyard.workloads.calibrate.calibrator import Floats, Labels
from pruneyard.workloads.calibrate.large_fit import MAX_PASSES, fit_large_matrix
from pruneyard.workloads.calibrate.linear_fit import fit_matrix
from pruneyard.workloads.calibrate.methods import vector
from pruneyard.workloads.calibrate.methods.dirichlet import Dirichlet
from pruneyard.workloads.calibrate.methods.vector import Vector


def made_up(num_rows: int, num_classes: int, *, seed: int = 0) -> tuple[Floats, Labels]:
    """Returns log-probabilities whose classes are correlated in pairs, and labels."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, num_classes, num_rows)
    logits = draws.normal(size=(num_rows, num_classes)) + draws.normal(size=(num_rows, num_classes // 2)).repeat(2, axis=1)
    logits[np.arange(num_rows), labels] += 2
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), labels


def loss(features: Floats, labels: Labels, weights: Floats, biases: Floats, strength: float) -> float:
    """Returns the penalised NLL as `fit_matrix` states it, in nats."""
    num_classes, diagonal = len(weights), np.eye(len(weights), dtype=bool)
    scores = features @ weights.T + biases
    nll = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels]
    off_diagonal = (weights[~diagonal] ** 2).sum() / (num_classes * (num_classes - 1))
    ridge = ((weights[diagonal] - 1) ** 2).sum() / num_classes
    return float(nll.mean() + strength * (off_diagonal + (biases**2).sum() / num_classes + ridge))


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_the_minimum_is_that_of_the_fit_in_float64(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made_up(3000, 12)
    penalties = {"off_diagonal": strength, "bias": strength, "ridge": strength / 12}
    exact = fit_matrix(features, labels, **penalties)
    monkeypatch.setattr(linear_fit, "MANY_WEIGHTS", 0)
    quick = fit_matrix(features, labels, **penalties)
    assert exact[2]
    assert quick[2]
    at_start = loss(features, labels, np.eye(12), np.zeros(12), strength)
    at_minimum = loss(features, labels, *exact[:2], strength)
    at_end = loss(features, labels, *quick[:2], strength)
    assert at_minimum <= at_end < at_minimum + 1e-4 < at_start


def test_without_an_early_end_the_parameters_are_those_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made_up(3000, 12)
    exact = fit_matrix(features, labels, off_diagonal=1.0, bias=1.0, ridge=0.1)
    monkeypatch.setattr(linear_fit, "MANY_WEIGHTS", 0)
    monkeypatch.setattr(large_fit, "LEAST_GAIN", -1.0)
    monkeypatch.setattr(large_fit, "MAX_PASSES", 400)
    quick = fit_matrix(features, labels, off_diagonal=1.0, bias=1.0, ridge=0.1)
    np.testing.assert_allclose(quick[0], exact[0], atol=2e-3)
    np.testing.assert_allclose(quick[1], exact[1], atol=2e-3)


def test_a_fit_that_cannot_improve_ends_at_the_start() -> None:
    features, labels = made_up(500, 6)
    start = np.concatenate([np.eye(6), np.zeros((6, 1))], axis=1)
    with_one = np.concatenate([features, np.ones((500, 1))], axis=1)
    found, _ = fit_large_matrix(with_one, labels, start_CD=start, penalty_CD=np.full((6, 7), 1e9))
    np.testing.assert_allclose(found, start, atol=1e-6)


def test_dirichlet_calibration_of_many_classes_takes_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made_up(4000, 320)
    passes = []
    original = large_fit._Problem.loss_and_gradient

    def counted(problem: large_fit._Problem, point: Floats) -> tuple[float, Floats]:
        passes.append(1)
        return original(problem, point)

    monkeypatch.setattr(large_fit._Problem, "loss_and_gradient", counted)
    fitted = Dirichlet().fit(2 * features, labels, seed=0)
    assert 1 < len(passes) <= MAX_PASSES
    assert fitted.numbers["converged"] == 1
    log_p = fitted.log_probabilities(2 * features)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-9)
    before = -(features * 2 - np.log(np.exp(2 * features).sum(axis=1, keepdims=True)))[np.arange(4000), labels].mean()
    assert -log_p[np.arange(4000), labels].mean() < before


@pytest.mark.parametrize("ridge", [0.001, 1.0])
def test_vector_scaling_of_many_values_is_that_in_float64(ridge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-probabilities of other rows agree within 1e-3 nats, in one block and in several."""
    features, labels = made_up(3000, 12)
    others = made_up(200, 12, seed=1)[0]
    exact = Vector(ridge=ridge).fit(features, labels, seed=0)
    monkeypatch.setattr(vector, "MANY_VALUES", 0)
    for size in (large_vector_fit.BLOCK_VALUES, 5000):
        monkeypatch.setattr(large_vector_fit, "BLOCK_VALUES", size)
        quick = Vector(ridge=ridge).fit(features, labels, seed=0)
        assert quick.numbers == exact.numbers == {"converged": 1.0, "ridge": ridge}
        np.testing.assert_allclose(quick.log_probabilities(others), exact.log_probabilities(others), atol=1e-3)
