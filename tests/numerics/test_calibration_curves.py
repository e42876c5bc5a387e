"""Calibrators that map one probability to another by steps or a spline: examples worked by hand, and brute-force twins."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overconfident import overconfident_rows
from scipy.special import gammaln, logit, logsumexp
from sklearn.isotonic import IsotonicRegression

from pruneyard.testing.cases import each_case
from pruneyard.workloads.calibrate.calibrator import Floats
from pruneyard.workloads.calibrate.methods.bbq import BBQ, log_marginals, prior_counts
from pruneyard.workloads.calibrate.methods.histogram import FittedSteps, Histogram
from pruneyard.workloads.calibrate.methods.isotonic import Isotonic, fit_monotone_curve
from pruneyard.workloads.calibrate.methods.spline import Spline, slopes_of_natural_spline
from pruneyard.workloads.calibrate.step_maps import equal_mass_edges, steps_at
from pruneyard.workloads.metrics.classification import expected_calibration_error, softmax


def binary(p: list[float]) -> Floats:
    """Returns logits of two classes whose softmax gives class 1 these probabilities."""
    return np.column_stack([np.zeros(len(p)), logit(p)])


# Isotonic


def test_adjacent_violators_are_pooled_by_hand() -> None:
    """0 1 0 1 1: the second and third are pooled to 1/2."""
    p, q = fit_monotone_curve(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0, 1, 0, 1, 1], dtype=bool))
    assert p.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert q.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]


def test_equal_probabilities_share_a_value_and_the_inside_of_a_step_is_left_out() -> None:
    """The mean at .2 is 1/2 of two rows; with the 0s at .6 and .7 it is pooled to 1/4. The step ends at .2 and .7."""
    p, q = fit_monotone_curve(np.array([0.2, 0.2, 0.6, 0.7, 0.9]), np.array([1, 0, 0, 0, 1], dtype=bool))
    assert p.tolist() == [0.2, 0.7, 0.9]
    assert q.tolist() == [0.25, 0.25, 1.0]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 80))
def test_the_curve_is_that_of_scikit_learn(seed: int, num_rows: int) -> None:
    generator = np.random.default_rng(seed)
    p, outcomes = generator.integers(0, 30, num_rows) / 30, generator.random(num_rows) < 0.4
    new = generator.random(50)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(p, outcomes).predict(new)
    assert np.interp(new, *fit_monotone_curve(p, outcomes)) == pytest.approx(theirs, abs=1e-12)


def test_the_pooled_curve_is_one_for_all_classes_and_the_uniform_share_is_as_stated() -> None:
    logits, labels = overconfident_rows(300, 3)
    fitted = Isotonic().fit(logits, labels, seed=0)
    p = softmax(logits)
    q = np.interp(p, *fit_monotone_curve(p.ravel(), (labels[:, None] == np.arange(3)).ravel())) + 1e-9 * p
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


# Spline


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
    logits, labels = overconfident_rows(20_000, 5)
    new, new_labels = overconfident_rows(20_000, 5, seed=1)
    fitted = Spline().fit(logits, labels, seed=0)
    assert expected_calibration_error(softmax(new), new_labels) > 0.15
    assert expected_calibration_error(np.exp(fitted.log_probabilities(new)), new_labels) < 0.02
    with pytest.raises(ValueError, match="there are 5 rows; a spline of 6 knots needs as many"):
        Spline().fit(logits[:5], labels[:5], seed=0)


@each_case(
    ("build", "message"),
    [
        (lambda: Histogram(num_bins=0), "num_bins is 0"),
        (lambda: BBQ(prior=0), "prior is 0"),
        (lambda: BBQ(spread=0.5), "spread is 0.5"),
        (lambda: Spline(num_knots=2), "num_knots is 2"),
    ],
)
def test_options_out_of_range_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
