"""Post-hoc calibrators: examples worked by hand, brute-force twins, and settings at which one equals another."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overconfident import overconfident_rows
from scipy.optimize import check_grad, minimize
from scipy.special import expit, log_softmax

from pruneyard.testing.cases import each_case
from pruneyard.workloads.calibrate.calibrator import Calibrator, Floats, keeping_argmax
from pruneyard.workloads.calibrate.common_scale import common_factor
from pruneyard.workloads.calibrate.linear_fit import LinearScores, fit_linear
from pruneyard.workloads.calibrate.methods import parameterised_temperature as pts
from pruneyard.workloads.calibrate.methods.beta import Beta, FittedBeta
from pruneyard.workloads.calibrate.methods.dirichlet import Dirichlet
from pruneyard.workloads.calibrate.methods.ensemble_temperature import (
    EnsembleTemperature,
    FittedEnsembleTemperature,
    best_weights,
    log_parts,
)
from pruneyard.workloads.calibrate.methods.matrix import Matrix
from pruneyard.workloads.calibrate.methods.parameterised_temperature import ParameterisedTemperature
from pruneyard.workloads.calibrate.methods.platt import FittedPlatt, Platt, smoothed_targets
from pruneyard.workloads.calibrate.methods.temperature import Temperature
from pruneyard.workloads.calibrate.methods.vector import FittedVector, Vector
from pruneyard.workloads.calibrate.one_vs_rest import log_odds
from pruneyard.workloads.metrics.classification import negative_log_likelihood, softmax

# Platt and beta


def test_platt_s_targets_by_hand() -> None:
    assert smoothed_targets(np.array([True, True, False, True])) == pytest.approx([0.8, 0.8, 1 / 3, 0.8])


def test_platt_on_a_score_that_says_nothing_is_the_mean_target() -> None:
    """Two classes at even odds, three rows of one and one of the other: (3 * 0.8 + 1/3) / 4."""
    fitted = Platt().fit(np.zeros((4, 2)), np.array([1, 1, 0, 1]), seed=0)
    found = np.exp(fitted.log_probabilities(np.zeros((1, 2))))[0, 1]
    assert found == pytest.approx((3 * 0.8 + 1 / 3) / 4)


def test_platt_equals_a_general_minimiser_and_two_classes_have_one_curve() -> None:
    logits, labels = overconfident_rows(200, 2)
    score, targets = logits[:, 1] - logits[:, 0], smoothed_targets(labels == 1)

    def loss(curve: Floats) -> float:
        scores = curve[0] * score + curve[1]
        return float((np.logaddexp(0, scores) - targets * scores).mean())

    expected = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15})
    fitted = Platt().fit(logits, labels, seed=0)
    assert isinstance(fitted, FittedPlatt)
    assert [fitted.slope[1] * fitted.factor, fitted.intercept[1]] == pytest.approx(expected.x, abs=1e-6)
    assert fitted.slope[0] == pytest.approx(fitted.slope[1], abs=1e-10)
    assert fitted.intercept[0] == pytest.approx(-fitted.intercept[1], abs=1e-10)
    assert fitted.log_probabilities(logits)[:, 1] == pytest.approx(
        np.log(expit(fitted.slope[1] * fitted.factor * score + fitted.intercept[1])), abs=1e-9
    )


def test_odds_are_exact_where_probabilities_are_not() -> None:
    logits = np.array([[60.0, 0.0], [0.0, 800.0], [0.0, 0.0]])
    assert log_odds(logits)[:, 0].tolist() == [60.0, -800.0, 0.0]
    three = np.array([[1.0, 2.0, 4.0]])
    p = softmax(three)
    assert log_odds(three) == pytest.approx(np.log(p / (1 - p)), abs=1e-14)


@settings(deadline=None)
@given(st.floats(0.1, 10), st.integers(0, 1_000))
def test_beta_with_equal_weights_and_no_bias_is_temperature_scaling_of_two_classes(
    temperature: float, seed: int
) -> None:
    logits, _ = overconfident_rows(20, 2, seed)
    same = np.full(2, 1 / temperature)
    fitted = FittedBeta(num_classes=np.array(2), a=same, b=same, c=np.zeros(2), ridge=np.array(0.0))
    expected = log_softmax(logits / temperature, axis=1)
    np.testing.assert_allclose(fitted.log_probabilities(logits), expected, rtol=1e-9, atol=1e-12)


def test_beta_keeps_its_weights_from_falling_below_zero_and_is_the_best_that_does() -> None:
    """Labels against the probabilities, so that free weights would be negative: a bounded search agrees."""
    logits, labels = overconfident_rows(300, 2)
    labels = np.where(np.arange(300) % 3 == 0, labels, 1 - labels)
    fitted = Beta(ridge=1e-4).fit(logits, labels, seed=0)
    assert isinstance(fitted, FittedBeta)
    log_rest, log_p = log_softmax(logits * common_factor(logits, labels), axis=1).T

    def loss(curve: Floats) -> float:
        scores = curve[0] * log_p - curve[1] * log_rest + curve[2]
        penalty = 1e-4 * ((curve - [1, 1, 0]) ** 2).sum()
        return float((np.logaddexp(0, scores) - (labels == 1) * scores).mean() + penalty)

    bounds = [(0, None), (0, None), (None, None)]
    slow = minimize(
        loss, [0.5, 0.5, 0.0], bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    )
    ours = np.array([fitted.a[1], fitted.b[1], fitted.c[1]])
    assert (ours[:2] >= 0).all()
    assert min(ours[:2]) == 0
    assert loss(ours) <= slow.fun + 1e-10
    assert (fitted.a[0], fitted.b[0], fitted.c[0]) == pytest.approx((ours[1], ours[0], -ours[2]), abs=1e-9)


# Vector, matrix, Dirichlet


def test_vector_with_equal_weights_is_temperature_scaling() -> None:
    logits, labels = overconfident_rows(400, 5)
    temperature = Temperature().fit(logits, labels, seed=0)
    fitted = FittedVector(
        num_classes=np.array(5),
        weight=np.ones(5),
        bias=np.zeros(5),
        factor=np.array(1 / temperature.numbers["temperature"]),
        ridge=np.array(0.0),
        converged=np.array(1),
    )
    np.testing.assert_allclose(
        fitted.log_probabilities(logits), temperature.log_probabilities(logits), rtol=1e-12, atol=1e-12
    )


def test_the_linear_fit_along_one_direction_finds_the_temperature() -> None:
    logits, labels = overconfident_rows(400, 5)
    one_weight = LinearScores(
        scores=lambda w: logits * w[0], adjoint=lambda e: np.array([(e * logits).sum()])
    )
    found, converged = fit_linear(one_weight, labels, start_P=np.ones(1), penalty_P=np.zeros(1))
    assert converged
    expected = Temperature().fit(logits, labels, seed=0).numbers["temperature"]
    assert 1 / found[0] == pytest.approx(expected, rel=1e-6)


def test_matrix_is_vector_where_off_diagonal_weights_cost_much_and_biases_nothing() -> None:
    logits, labels = overconfident_rows(400, 4)
    vector = Vector(ridge=0.0).fit(logits, labels, seed=0)
    matrix = Matrix(off_diagonal=1e7, bias=0.0, ridge=0.0).fit(logits, labels, seed=0)
    weight = matrix.tensors["weight"]
    assert np.abs(weight - np.diag(np.diag(weight))).max() < 1e-6
    np.testing.assert_allclose(matrix.log_probabilities(logits), vector.log_probabilities(logits), atol=1e-4)


@each_case(
    "held",
    [
        Vector(ridge=1e9),
        Matrix(off_diagonal=1e9, bias=1e9, ridge=1e9),
        Dirichlet(off_diagonal=1e9, bias=1e9, ridge=1e9),
    ],
)
def test_held_to_the_identity_they_are_temperature_scaling(held: Calibrator) -> None:
    logits, labels = overconfident_rows(200, 4)
    plain = Temperature().fit(logits, labels, seed=0).log_probabilities(logits)
    np.testing.assert_allclose(held.fit(logits, labels, seed=0).log_probabilities(logits), plain, atol=1e-6)


def test_matrix_equals_a_general_minimiser_of_the_penalised_loss() -> None:
    logits, labels = overconfident_rows(150, 3)
    common = logits * common_factor(logits, labels)
    diagonal = np.eye(3, dtype=bool)

    def loss(flat: Floats) -> float:
        weight, bias = flat[:9].reshape(3, 3), flat[9:]
        nll = negative_log_likelihood(common @ weight.T + bias, labels)
        ridge = 1e-4 * ((np.diag(weight) - 1) ** 2).sum()
        return float(nll + 0.1 * (weight[~diagonal] ** 2).mean() + 0.1 * (bias**2).mean() + ridge)

    fitted = Matrix(off_diagonal=0.1, bias=0.1, ridge=1e-4).fit(logits, labels, seed=0)
    ours = np.concatenate([fitted.tensors["weight"].ravel(), fitted.tensors["bias"]])
    slow = minimize(loss, np.concatenate([np.eye(3).ravel(), np.zeros(3)]), options={"gtol": 1e-8})
    assert loss(ours) <= slow.fun + 1e-10
    assert ours == pytest.approx(slow.x, abs=1e-4)
    assert fitted.numbers["converged"] == 1.0


def test_dirichlet_recovers_a_map_that_mixes_classes() -> None:
    """Labels sampled from softmax(W log p + b): with enough rows and a small penalty its probabilities are recovered."""
    generator = np.random.default_rng(0)
    log_p = log_softmax(generator.normal(size=(20_000, 3)) * 2, axis=1)
    weight, bias = np.array([[0.6, 0.1, 0.0], [0.0, 0.5, 0.2], [-0.1, 0.0, 0.8]]), np.array([0.3, 0.0, -0.3])
    true = log_softmax(log_p @ weight.T + bias, axis=1)
    labels = (true + generator.gumbel(size=true.shape)).argmax(axis=1)
    fitted = Dirichlet(off_diagonal=1e-6, bias=1e-6, ridge=0.0).fit(log_p, labels, seed=0)
    # 8 free numbers of 20,000 rows: probabilities are off by about sqrt(8 / 20,000) times a deviation below 1/2
    assert np.abs(np.exp(fitted.log_probabilities(log_p)) - np.exp(true)).mean() < 0.01


# Ensemble and parameterised


def test_an_ensemble_of_only_scaled_probabilities_is_temperature_scaling() -> None:
    logits, labels = overconfident_rows(300, 4)
    temperature = Temperature().fit(logits, labels, seed=0)
    for weights, expected in (
        ([1.0, 0.0, 0.0], temperature.log_probabilities(logits)),
        ([0.0, 1.0, 0.0], log_softmax(logits, axis=1)),
        ([0.0, 0.0, 1.0], np.full(logits.shape, -math.log(4))),
    ):
        fitted = FittedEnsembleTemperature(
            num_classes=np.array(4),
            temperature=temperature.tensors["temperature"],
            at_bound=np.array(0),
            weights=np.array(weights),
        )
        np.testing.assert_allclose(fitted.log_probabilities(logits), expected, rtol=1e-12, atol=1e-12)


def test_ensemble_weights_are_those_of_the_mixture_that_made_the_labels() -> None:
    """0.7 of softmax(z / 3) and 0.3 uniform, T given: the weights come back within what 50,000 rows tell."""
    generator = np.random.default_rng(0)
    logits = 6 * generator.normal(size=(50_000, 5))
    labels = (logits / 3 + generator.gumbel(size=logits.shape)).argmax(axis=1)
    labels = np.where(generator.random(50_000) < 0.3, generator.integers(5, size=50_000), labels)
    found = best_weights(log_parts(logits, 3.0)[:, np.arange(50_000), labels])
    assert found == pytest.approx([0.7, 0.0, 0.3], abs=0.02)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()


def test_an_ensemble_never_loses_to_temperature_scaling_on_its_rows() -> None:
    for seed in range(5):
        logits, labels = overconfident_rows(60, 4, seed)
        ets, plain = (each.fit(logits, labels, seed=0) for each in (EnsembleTemperature(), Temperature()))
        assert negative_log_likelihood(ets.log_probabilities(logits), labels) <= (
            negative_log_likelihood(plain.log_probabilities(logits), labels) + 1e-12
        )


def test_the_gradient_of_parameterised_temperature_is_that_of_its_loss() -> None:
    generator, sizes = np.random.default_rng(0), np.array([4, 5, 3, 1])
    logits, labels = overconfident_rows(40, 4)
    features = generator.normal(size=(40, 4))
    at = generator.normal(size=len(pts.initial_parameters(sizes, 0))) / 2
    method = ParameterisedTemperature(l2=0.01)

    def both(parameters: Floats) -> tuple[float, Floats]:
        return method._loss_and_gradient(parameters, sizes, features, logits / 2.5, labels)

    assert check_grad(lambda x: both(x)[0], lambda x: both(x)[1], at) < 1e-6


def test_a_parameterised_temperature_whose_weights_cost_much_is_the_common_one() -> None:
    """Then only the last bias is left: one factor for all, fitted to squared error where T is to NLL, so nearly 1."""
    logits, labels = overconfident_rows(2_000, 4)
    fitted = ParameterisedTemperature(l2=1e4).fit(logits, labels, seed=0)
    assert isinstance(fitted, pts.FittedParameterisedTemperature)
    temperatures = fitted.temperatures(logits)
    assert np.ptp(temperatures) < 1e-3
    assert temperatures.mean() == pytest.approx(fitted.numbers["temperature"], rel=0.05)


def test_rows_overconfident_by_individual_factors_are_distinguished_by_their_spread() -> None:
    """Half of the rows are too large by 1, half by 5, as their spread shows: one temperature is not enough."""
    generator = np.random.default_rng(0)
    true = 2 * generator.normal(size=(6_000, 5))
    labels = (true + generator.gumbel(size=true.shape)).argmax(axis=1)
    factor = np.where(np.arange(6_000) % 2, 5.0, 1.0)
    logits = true * factor[:, None]
    fitted = ParameterisedTemperature().fit(logits[:3_000], labels[:3_000], seed=0)
    assert isinstance(fitted, pts.FittedParameterisedTemperature)
    low, high = (
        np.median(fitted.temperatures(logits[3_000:][factor[3_000:] == each])) for each in (1.0, 5.0)
    )
    assert high > 2 * low
    one = Temperature().fit(logits[:3_000], labels[:3_000], seed=0)
    after, before = (
        negative_log_likelihood(each.log_probabilities(logits[3_000:]), labels[3_000:])
        for each in (fitted, one)
    )
    assert after < before - 0.02


def test_the_seed_draws_the_network_of_parameterised_temperature() -> None:
    logits, labels = overconfident_rows(300, 4)
    first, second = (ParameterisedTemperature(max_steps=3).fit(logits, labels, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.tensors["parameters"], second.tensors["parameters"])


def test_a_blurred_prediction_is_put_right_and_others_are_left() -> None:
    logits = np.array([[0.0, 1e-20], [1.0, 1.0], [0.0, 5.0]])
    log_probabilities = np.asarray(log_softmax(logits, axis=1))
    before = log_probabilities.copy()
    after = keeping_argmax(log_probabilities, logits)
    assert after[0].argmax() == 1
    assert softmax(after)[0].argmax() == 1
    assert np.array_equal(after[1:], before[1:])


@each_case(
    ("build", "message"),
    [
        (lambda: Vector(ridge=-1), "ridge is -1"),
        (lambda: Beta(ridge=0), "ridge is 0"),
        (lambda: Matrix(off_diagonal=float("nan")), "off_diagonal is nan"),
        (lambda: Dirichlet(bias=-1), "bias is -1"),
        (lambda: ParameterisedTemperature(num_top=1), "num_top is 1"),
        (lambda: ParameterisedTemperature(width=0), "width is 0"),
        (lambda: ParameterisedTemperature(l2=-1), "l2 is -1"),
    ],
)
def test_options_out_of_range_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
