"""Post-hoc calibrators: examples worked by hand, twins, and the limits in which one is another."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad, minimize
from scipy.special import expit, gammaln, log_softmax, logit, logsumexp
from sklearn.isotonic import IsotonicRegression

from workloads.calibrate.calibrator import Calibrator, Floats, Labels, keeping_argmax
from workloads.calibrate.linear_fit import LinearScores, fit_linear
from workloads.calibrate.methods import parameterised_temperature as pts
from workloads.calibrate.methods.bbq import BBQ, log_marginals, prior_counts
from workloads.calibrate.methods.beta import Beta, FittedBeta
from workloads.calibrate.methods.dirichlet import Dirichlet
from workloads.calibrate.methods.ensemble_temperature import (
    EnsembleTemperature,
    FittedEnsembleTemperature,
    best_weights,
    log_parts,
)
from workloads.calibrate.methods.histogram import FittedSteps, Histogram
from workloads.calibrate.methods.isotonic import Isotonic, rising_curve
from workloads.calibrate.methods.matrix import Matrix
from workloads.calibrate.methods.none import Uncalibrated
from workloads.calibrate.methods.parameterised_temperature import ParameterisedTemperature
from workloads.calibrate.methods.platt import FittedPlatt, Platt, smoothed_targets
from workloads.calibrate.methods.spline import Spline, slopes_of_natural_spline
from workloads.calibrate.methods.temperature import Temperature
from workloads.calibrate.methods.vector import FittedVector, Vector
from workloads.calibrate.metrics import expected_calibration_error, negative_log_likelihood, softmax
from workloads.calibrate.one_vs_rest import log_odds
from workloads.calibrate.step_maps import equal_mass_edges, steps_at


def drawn(num_rows: int, num_classes: int, seed: int = 0, factor: float = 2.5) -> tuple[Floats, Labels]:
    """Logits too large by a factor, and labels drawn from the softmax of the right ones."""
    generator = np.random.default_rng(seed)
    true = 2 * generator.normal(size=(num_rows, num_classes))
    return factor * true, (true + generator.gumbel(size=true.shape)).argmax(axis=1)


def binary(p: list[float]) -> Floats:
    """Logits of two classes whose softmax gives class 1 these probabilities."""
    return np.column_stack([np.zeros(len(p)), logit(p)])


# Isotonic


def test_adjacent_violators_are_pooled_by_hand() -> None:
    """0 1 0 1 1: the second and third are pooled to 1/2."""
    p, q = rising_curve(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0, 1, 0, 1, 1], dtype=bool))
    assert p.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert q.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]


def test_equal_probabilities_share_a_value_and_the_inside_of_a_step_is_left_out() -> None:
    """The mean at .2 is 1/2 of two rows; with the 0s at .6 and .7 it is pooled to 1/4. The step ends at .2 and .7."""
    p, q = rising_curve(np.array([0.2, 0.2, 0.6, 0.7, 0.9]), np.array([1, 0, 0, 0, 1], dtype=bool))
    assert p.tolist() == [0.2, 0.7, 0.9]
    assert q.tolist() == [0.25, 0.25, 1.0]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 80))
def test_the_curve_is_that_of_scikit_learn(seed: int, num_rows: int) -> None:
    generator = np.random.default_rng(seed)
    p, outcomes = generator.integers(0, 30, num_rows) / 30, generator.random(num_rows) < 0.4
    new = generator.random(50)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(p, outcomes).predict(new)
    assert np.interp(new, *rising_curve(p, outcomes)) == pytest.approx(theirs, abs=1e-12)


def test_the_pooled_curve_is_one_for_all_classes_and_the_uniform_share_is_as_stated() -> None:
    logits, labels = drawn(300, 3)
    fitted = Isotonic().fit(logits, labels, seed=0)
    p = softmax(logits)
    q = np.interp(p, *rising_curve(p.ravel(), (labels[:, None] == np.arange(3)).ravel())) + 1e-9 * p
    mixed = q * (1 - 1 / 303) + 1 / 303 / 3
    expected = mixed / mixed.sum(axis=1, keepdims=True)
    assert np.exp(fitted.log_probabilities(logits)) == pytest.approx(expected, abs=1e-12)


# Histogram and BBQ


def test_a_histogram_by_hand() -> None:
    """Class 1 at .1 .2 | .7 .9 with labels 0 1 1 1: shares 1/2 and 1; class 0 the other way round: 0 and 1/2.

    With 1/6 of the uniform distribution the lower rows have 1/2 and 1/2, the upper ones 11/12 and 1/12.
    """
    labels = np.array([0, 1, 1, 1])
    fitted = Histogram(num_bins=2).fit(binary([0.1, 0.2, 0.7, 0.9]), labels, seed=0)
    expected = [[1 / 2, 1 / 2], [1 / 2, 1 / 2], [1 / 12, 11 / 12], [1 / 12, 11 / 12]]
    assert np.exp(fitted.log_probabilities(binary([0.01, 0.15, 0.6, 0.99]))) == pytest.approx(
        np.array(expected)
    )


def test_an_empty_bin_of_equal_width_gives_its_midpoint() -> None:
    """Four bins: the second and third are empty for both classes; .3 becomes 3/8 and .7 5/8, then 1/6 of uniform."""
    fitted = Histogram(num_bins=4, equal_mass=False).fit(
        binary([0.1, 0.2, 0.8, 0.9]), np.array([0, 1, 1, 1]), seed=0
    )
    found = np.exp(fitted.log_probabilities(binary([0.3, 0.7])))
    assert found[0] == pytest.approx([5 / 6 * 5 / 8 + 1 / 12, 5 / 6 * 3 / 8 + 1 / 12])


def test_equal_values_stay_in_one_bin_and_no_bin_is_empty() -> None:
    values = np.array([0.1, 0.3, 0.3, 0.3, 0.3, 0.3, 0.8, 0.9])
    edges = equal_mass_edges(values, 4)
    assert edges.tolist() == [0.55]
    assert equal_mass_edges(np.full(5, 0.4), 3).tolist() == []
    assert equal_mass_edges(np.arange(6.0), 3).tolist() == [1.5, 3.5]
    assert steps_at(np.array([0.55, 0.56]), edges, np.array([5.0, 7.0])).tolist() == [5.0, 7.0]


def test_the_marginal_of_one_bin_by_hand() -> None:
    """Prior Beta(1, 1), two of three rows positive: the integral of s^2 (1 - s) is 1/12."""
    a, d = prior_counts(np.array([0.5]), np.array([2.0]))
    found = log_marginals(np.array([3.0]), np.array([2.0]), a, d)
    assert found == pytest.approx(np.log([1 / 12]))


def test_bbq_equals_its_brute_force_twin() -> None:
    """Every binning by loops over its bins, for each new probability, at ties too."""
    generator = np.random.default_rng(0)
    p = np.round(generator.beta(1, 3, size=90), 2).clip(0.01, 0.99)
    labels = (generator.random(90) < p).astype(int)
    logits = binary(p.tolist())
    p = softmax(logits)[:, 1]
    new = np.sort(generator.random(40))
    sizes = BBQ().sizes(90)
    assert (sizes[0], sizes[-1]) == (1, 18)
    scores, answers = [], []
    for size in sizes:
        edges = [0.0, *equal_mass_edges(np.sort(p), size), 1.0]
        score, values = 0.0, []
        for low, high in itertools.pairwise(edges):
            inside = (p > low) & (p <= high)
            n, m, strength = inside.sum(), labels[inside].sum(), 2 / (len(edges) - 1)
            a, d = strength * (low + high) / 2, strength * (1 - (low + high) / 2)
            score += gammaln(strength) - gammaln(n + strength) + gammaln(m + a) - gammaln(a)
            score += gammaln(n - m + d) - gammaln(d)
            values.append((m + a) / (n + strength))
        scores.append(score)
        answers.append([values[int(np.searchsorted(edges[1:-1], at))] for at in new])
    expected = np.exp(scores - logsumexp(scores)) @ np.array(answers)
    fitted = BBQ().fit(logits, labels, seed=0)
    assert isinstance(fitted, FittedSteps)
    edges_1 = fitted.edges[fitted.edges_from[1] :]
    values_1 = fitted.values[fitted.values_from[1] :]
    assert steps_at(new, edges_1, values_1) == pytest.approx(expected, abs=1e-12)


# Platt and beta


def test_platt_s_targets_by_hand() -> None:
    assert smoothed_targets(np.array([True, True, False, True])) == pytest.approx([0.8, 0.8, 1 / 3, 0.8])


def test_platt_on_a_score_that_says_nothing_is_the_mean_target() -> None:
    """Two classes at even odds, three rows of one and one of the other: (3 * 0.8 + 1/3) / 4."""
    fitted = Platt().fit(np.zeros((4, 2)), np.array([1, 1, 0, 1]), seed=0)
    found = np.exp(fitted.log_probabilities(np.zeros((1, 2))))[0, 1]
    assert found == pytest.approx((3 * 0.8 + 1 / 3) / 4)


def test_platt_equals_a_general_minimiser_and_two_classes_have_one_curve() -> None:
    logits, labels = drawn(200, 2)
    score, targets = logits[:, 1] - logits[:, 0], smoothed_targets(labels == 1)

    def loss(curve: Floats) -> float:
        scores = curve[0] * score + curve[1]
        return float((np.logaddexp(0, scores) - targets * scores).mean())

    expected = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15})
    fitted = Platt().fit(logits, labels, seed=0)
    assert isinstance(fitted, FittedPlatt)
    assert [fitted.slope[1], fitted.intercept[1]] == pytest.approx(expected.x, abs=1e-6)
    assert fitted.slope[0] == pytest.approx(fitted.slope[1], abs=1e-10)
    assert fitted.intercept[0] == pytest.approx(-fitted.intercept[1], abs=1e-10)
    assert fitted.log_probabilities(logits)[:, 1] == pytest.approx(
        np.log(expit(fitted.slope[1] * score + fitted.intercept[1])), abs=1e-9
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
    logits, _ = drawn(20, 2, seed)
    same = np.full(2, 1 / temperature)
    fitted = FittedBeta(num_classes=np.array(2), a=same, b=same, c=np.zeros(2))
    expected = log_softmax(logits / temperature, axis=1)
    np.testing.assert_allclose(fitted.log_probabilities(logits), expected, rtol=1e-9, atol=1e-12)


def test_beta_keeps_its_weights_from_falling_below_zero_and_is_the_best_that_does() -> None:
    """Labels against the probabilities, so that free weights would be negative: a bounded search agrees."""
    logits, labels = drawn(300, 2)
    labels = np.where(np.arange(300) % 3 == 0, labels, 1 - labels)
    fitted = Beta().fit(logits, labels, seed=0)
    assert isinstance(fitted, FittedBeta)
    log_p, log_rest = log_softmax(logits, axis=1)[:, 1], log_softmax(logits, axis=1)[:, 0]

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
    logits, labels = drawn(400, 5)
    temperature = Temperature().fit(logits, labels, seed=0)
    fitted = FittedVector(
        num_classes=np.array(5),
        weight=np.full(5, 1 / temperature.numbers["temperature"]),
        bias=np.zeros(5),
        converged=np.array(1),
    )
    np.testing.assert_allclose(
        fitted.log_probabilities(logits), temperature.log_probabilities(logits), rtol=1e-12, atol=1e-12
    )


def test_the_linear_fit_along_one_direction_finds_the_temperature() -> None:
    logits, labels = drawn(400, 5)
    one_weight = LinearScores(
        scores=lambda w: logits * w[0], adjoint=lambda e: np.array([(e * logits).sum()])
    )
    found, converged = fit_linear(one_weight, labels, start_P=np.ones(1), penalty_P=np.zeros(1))
    assert converged
    expected = Temperature().fit(logits, labels, seed=0).numbers["temperature"]
    assert 1 / found[0] == pytest.approx(expected, rel=1e-6)


def test_matrix_is_vector_where_off_diagonal_weights_cost_much_and_biases_nothing() -> None:
    logits, labels = drawn(400, 4)
    vector = Vector(ridge=0.0).fit(logits, labels, seed=0)
    matrix = Matrix(off_diagonal=1e7, bias=0.0, ridge=0.0).fit(logits, labels, seed=0)
    weight = matrix.tensors["weight"]
    assert np.abs(weight - np.diag(np.diag(weight))).max() < 1e-6
    np.testing.assert_allclose(matrix.log_probabilities(logits), vector.log_probabilities(logits), atol=1e-4)


@pytest.mark.parametrize(
    "held",
    [
        Vector(ridge=1e9),
        Matrix(off_diagonal=1e9, bias=1e9, ridge=1e9),
        Dirichlet(off_diagonal=1e9, bias=1e9, ridge=1e9),
    ],
)
def test_held_to_the_identity_they_are_the_network(held: Calibrator) -> None:
    logits, labels = drawn(200, 4)
    plain = Uncalibrated().fit(logits, labels, seed=0).log_probabilities(logits)
    np.testing.assert_allclose(held.fit(logits, labels, seed=0).log_probabilities(logits), plain, atol=1e-6)


def test_matrix_equals_a_general_minimiser_of_the_penalised_loss() -> None:
    logits, labels = drawn(150, 3)
    diagonal = np.eye(3, dtype=bool)

    def loss(flat: Floats) -> float:
        weight, bias = flat[:9].reshape(3, 3), flat[9:]
        nll = negative_log_likelihood(logits @ weight.T + bias, labels)
        ridge = 1e-4 * ((np.diag(weight) - 1) ** 2).sum()
        return float(nll + 0.1 * (weight[~diagonal] ** 2).mean() + 0.1 * (bias**2).mean() + ridge)

    fitted = Matrix().fit(logits, labels, seed=0)
    ours = np.concatenate([fitted.tensors["weight"].ravel(), fitted.tensors["bias"]])
    slow = minimize(loss, np.concatenate([np.eye(3).ravel(), np.zeros(3)]), options={"gtol": 1e-8})
    assert loss(ours) <= slow.fun + 1e-10
    assert ours == pytest.approx(slow.x, abs=1e-4)
    assert fitted.numbers["converged"] == 1.0


def test_dirichlet_recovers_a_map_that_mixes_classes() -> None:
    """Labels drawn from softmax(W log p + b): with rows enough and little penalty its probabilities are found."""
    generator = np.random.default_rng(0)
    log_p = log_softmax(generator.normal(size=(20_000, 3)) * 2, axis=1)
    weight, bias = np.array([[0.6, 0.1, 0.0], [0.0, 0.5, 0.2], [-0.1, 0.0, 0.8]]), np.array([0.3, 0.0, -0.3])
    true = log_softmax(log_p @ weight.T + bias, axis=1)
    labels = (true + generator.gumbel(size=true.shape)).argmax(axis=1)
    fitted = Dirichlet(off_diagonal=1e-6, bias=1e-6, ridge=0.0).fit(log_p, labels, seed=0)
    # 8 free numbers of 20,000 rows: probabilities are off by about sqrt(8 / 20,000) times a deviation below 1/2
    assert np.abs(np.exp(fitted.log_probabilities(log_p)) - np.exp(true)).mean() < 0.01


# Ensemble, parameterised and spline


def test_an_ensemble_of_only_scaled_probabilities_is_temperature_scaling() -> None:
    logits, labels = drawn(300, 4)
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
        logits, labels = drawn(60, 4, seed)
        ets, plain = (each.fit(logits, labels, seed=0) for each in (EnsembleTemperature(), Temperature()))
        assert negative_log_likelihood(ets.log_probabilities(logits), labels) <= (
            negative_log_likelihood(plain.log_probabilities(logits), labels) + 1e-12
        )


def test_the_gradient_of_parameterised_temperature_is_that_of_its_loss() -> None:
    generator, sizes = np.random.default_rng(0), np.array([4, 5, 3, 1])
    logits, labels = drawn(40, 4)
    features = generator.normal(size=(40, 4))
    at = generator.normal(size=len(pts.initial(sizes, 0))) / 2
    method = ParameterisedTemperature(l2=0.01)

    def both(parameters: Floats) -> tuple[float, Floats]:
        return method._loss_and_gradient(parameters, sizes, features, logits / 2.5, labels)

    assert check_grad(lambda x: both(x)[0], lambda x: both(x)[1], at) < 1e-6


def test_a_parameterised_temperature_whose_weights_cost_much_is_the_common_one() -> None:
    """Then only the last bias is left: one factor for all, fitted to squared error where T is to NLL, so nearly 1."""
    logits, labels = drawn(2_000, 4)
    fitted = ParameterisedTemperature(l2=1e4).fit(logits, labels, seed=0)
    assert isinstance(fitted, pts.FittedParameterisedTemperature)
    temperatures = fitted.temperatures(logits)
    assert np.ptp(temperatures) < 1e-3
    assert temperatures.mean() == pytest.approx(fitted.numbers["temperature"], rel=0.05)


def test_rows_too_sure_by_factors_of_their_own_are_told_apart_by_their_spread() -> None:
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
    logits, labels = drawn(300, 4)
    first, second = (ParameterisedTemperature(max_steps=3).fit(logits, labels, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.tensors["parameters"], second.tensors["parameters"])


def test_a_spline_through_a_straight_line_has_its_slope_and_through_a_parabola_nearly() -> None:
    t = np.arange(1, 2_001) / 2_000
    assert slopes_of_natural_spline(-0.3 * t, num_knots=6) == pytest.approx(np.full(2_000, -0.3), abs=1e-12)
    inner = slice(500, 1_500)  # a natural spline has no curvature at its ends
    assert slopes_of_natural_spline(t**2, num_knots=12)[inner] == pytest.approx(2 * t[inner], abs=0.02)


def test_a_spline_takes_confidence_to_accuracy_by_hand() -> None:
    """All rows at confidence 0.9, three of five right: the cumulative gap is a line of slope -0.3, and 0.9 becomes 0.6."""
    logits = np.tile(np.log([0.05, 0.9, 0.05]), (10, 1))
    labels = np.array([1, 1, 1, 0, 2] * 2)
    fitted = Spline().fit(logits, labels, seed=0)
    assert np.exp(fitted.log_probabilities(logits))[0] == pytest.approx([0.2, 0.6, 0.2])


def test_a_spline_calibrates_the_confidence_of_a_network_that_is_too_sure() -> None:
    logits, labels = drawn(20_000, 5)
    new, new_labels = drawn(20_000, 5, seed=1)
    fitted = Spline().fit(logits, labels, seed=0)
    assert expected_calibration_error(softmax(new), new_labels) > 0.15
    assert expected_calibration_error(np.exp(fitted.log_probabilities(new)), new_labels) < 0.02
    with pytest.raises(ValueError, match="there are 5 rows; a spline of 6 knots needs as many"):
        Spline().fit(logits[:5], labels[:5], seed=0)


def test_a_blurred_prediction_is_put_right_and_others_are_left() -> None:
    logits = np.array([[0.0, 1e-20], [1.0, 1.0], [0.0, 5.0]])
    log_probabilities = np.asarray(log_softmax(logits, axis=1))
    before = log_probabilities.copy()
    after = keeping_argmax(log_probabilities, logits)
    assert after[0].argmax() == 1
    assert softmax(after)[0].argmax() == 1
    assert np.array_equal(after[1:], before[1:])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Vector(ridge=-1), "ridge is -1"),
        (lambda: Beta(ridge=0), "ridge is 0"),
        (lambda: Matrix(off_diagonal=float("nan")), "off_diagonal is nan"),
        (lambda: Dirichlet(bias=-1), "bias is -1"),
        (lambda: Histogram(num_bins=0), "num_bins is 0"),
        (lambda: BBQ(prior=0), "prior is 0"),
        (lambda: BBQ(spread=0.5), "spread is 0.5"),
        (lambda: Spline(num_knots=2), "num_knots is 2"),
        (lambda: ParameterisedTemperature(num_top=1), "num_top is 1"),
        (lambda: ParameterisedTemperature(width=0), "width is 0"),
        (lambda: ParameterisedTemperature(l2=-1), "l2 is -1"),
    ],
)
def test_options_out_of_range_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
