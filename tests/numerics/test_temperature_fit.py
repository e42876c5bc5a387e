"""The search for a temperature: values worked by hand, a brute-force twin, its limits, and the effect of masks."""

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from pruneyard.testing.cases import each_case
from pruneyard.workloads.calibrate import temperature_fit
from pruneyard.workloads.calibrate.calibrator import Floats, Labels
from pruneyard.workloads.calibrate.methods.masked_temperature import MaskedTemperature
from pruneyard.workloads.calibrate.methods.temperature import Temperature
from pruneyard.workloads.calibrate.temperature_fit import LIMIT, fit_temperature
from pruneyard.workloads.metrics.classification import (
    expected_calibration_error,
    negative_log_likelihood,
    softmax,
)


def drawn(num_rows: int, num_classes: int, seed: int) -> tuple[Floats, Labels]:
    """Returns logits, and labels sampled from their softmax: T = 1 up to sampling."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(num_rows, num_classes))
    return logits, (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


def test_three_of_four_right_at_equal_logits_make_the_odds_three() -> None:
    """Gap 1 in every row and 3/4 right: sigmoid(1 / T) = 3/4, so T = 1 / ln 3."""
    logits = np.tile([0.0, 1.0], (4, 1))
    found = fit_temperature(logits, np.array([1, 1, 0, 1]))
    assert found.temperature == pytest.approx(1 / math.log(3), rel=1e-12)
    assert found.at_bound == 0


def test_of_more_classes_the_odds_are_shared() -> None:
    """Gap 2 to each of four others and 2/3 right: 4 exp(-2 / T) = 1/2, so T = 2 / ln 8."""
    logits = np.tile([0.0, 0.0, 2.0, 0.0, 0.0], (3, 1))
    assert fit_temperature(logits, np.array([2, 2, 4])).temperature == pytest.approx(
        2 / math.log(8), rel=1e-12
    )


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 200), st.integers(2, 12), st.floats(0.1, 10))
def test_equals_a_search_that_knows_no_derivative(
    seed: int, num_rows: int, num_classes: int, factor: float
) -> None:
    """The value of an NLL is flat to 1e-16 within 1e-8 of its minimum, so the twin's T is known to about that."""
    logits, labels = drawn(num_rows, num_classes, seed)
    logits = factor * logits
    found = fit_temperature(logits, labels)
    slow = minimize_scalar(
        lambda u: negative_log_likelihood(logits / math.exp(u), labels),
        bounds=(-12, 12),
        method="bounded",
        options={"xatol": 1e-9},
    )
    if found.at_bound == 0:
        assert math.log(found.temperature) == pytest.approx(slow.x, abs=2e-6)
    assert negative_log_likelihood(logits / found.temperature, labels) <= slow.fun + 1e-12 or found.at_bound


@each_case("factor", [1e-60, 0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 1e60])
def test_logits_times_s_have_s_times_the_temperature(factor: float) -> None:
    logits, labels = drawn(2_000, 10, 0)
    base = fit_temperature(logits, labels).temperature
    assert fit_temperature(factor * logits, labels).temperature / factor == pytest.approx(base, rel=1e-10)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_constants_added_to_rows_change_nothing(seed: int) -> None:
    logits, labels = drawn(100, 4, seed)
    shifts = np.random.default_rng(seed).normal(size=(100, 1)) * 10
    base = fit_temperature(logits, labels).temperature
    assert fit_temperature(logits + shifts, labels).temperature == pytest.approx(base, rel=1e-9)


@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
def test_where_there_is_no_best_temperature_it_says_so_and_does_no_harm(factor: float, caplog: pytest.LogCaptureFixture) -> None:
    logits, _ = drawn(500, 5, 0)
    logits = factor * logits
    scale = (logits.max(axis=1, keepdims=True) - logits).mean()
    with caplog.at_level(logging.WARNING):
        told_apart = Temperature().fit(logits, logits.argmax(axis=1), seed=0)
        useless = Temperature().fit(logits, logits.argmin(axis=1), seed=0)
    assert told_apart.numbers == {"temperature": 1.0, "temperature_at_bound": -1.0}
    assert useless.numbers == {"temperature": pytest.approx(scale * LIMIT), "temperature_at_bound": 1.0}
    assert ["T stays 1" in caplog.messages[0], "upper bound" in caplog.messages[1]] == [True, True]
    unchanged, uniform = (np.exp(each.log_probabilities(logits)) for each in (told_apart, useless))
    assert unchanged == pytest.approx(softmax(logits))
    assert uniform == pytest.approx(1 / 5, abs=1e-3)


def test_a_root_beyond_the_bounds_is_named_as_that() -> None:
    """40 rows right by 1e6, 3 right and 1 wrong by 1e-6: T would be 1e-6 / ln 3, far below a mean gap of 5e5 * 40/44 by LIMIT."""
    logits = np.tile([1e6, 0.0], (44, 1))
    logits[40:] = [1e-6, 0.0]
    labels = np.zeros(44, dtype=int)
    labels[43] = 1
    found = fit_temperature(logits, labels)
    assert found.at_bound == -1
    assert found.temperature == pytest.approx(5e5 * 40 / 44 / LIMIT)


def test_equal_logits_leave_the_temperature_at_one() -> None:
    found = fit_temperature(np.full((6, 3), 4.0), np.array([0, 1, 2, 0, 1, 2]))
    assert (found.temperature, found.at_bound) == (1.0, 0)


def test_few_passes_over_the_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newton's method where it can: six or seven for a usual network, and never more than the bracket allows."""
    looks = []
    look = temperature_fit._slope_and_curvature
    monkeypatch.setattr(
        temperature_fit, "_slope_and_curvature", lambda *given: looks.append(1) or look(*given)
    )
    logits, labels = drawn(10_000, 10, 0)
    fit_temperature(2.5 * logits, labels)
    assert len(looks) <= 8


def test_blocks_cut_the_rows_without_changing_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(1_001, 7, 0)
    whole = fit_temperature(logits, labels).temperature
    monkeypatch.setattr(temperature_fit, "BLOCK", 50)
    assert fit_temperature(logits, labels).temperature == pytest.approx(whole, rel=1e-13)


@pytest.mark.parametrize("centred", [True, False])
def test_masks_of_ratio_zero_are_temperature_scaling_exactly(centred: bool) -> None:
    logits, labels = drawn(500, 6, 0)
    plain = Temperature().fit(3 * logits, labels, seed=0)
    masked = MaskedTemperature(ratio=0.0, centred=centred).fit(3 * logits, labels, seed=0)
    assert masked.numbers == plain.numbers
    assert np.array_equal(masked.log_probabilities(logits), plain.log_probabilities(logits))


def test_masks_raise_the_temperature_of_a_network_that_is_too_sure_by_a_factor() -> None:
    """The toy of our notes: 10 classes, 3,000 rows, logits too large by 2.5; T of one draw was 2.53, 2.65, 2.77, 3.01, 3.20.

    One draw of rows moves T by about 1.5%, the masks by less; three draws are averaged here, and 3% allowed for theirs.
    """
    ratios, noted = [0.0, 0.05, 0.1, 0.2, 0.3], [2.53, 2.65, 2.77, 3.01, 3.20]
    temperatures, errors = [], []
    for seed in range(3):
        logits, labels = drawn(3_000, 10, seed)
        new, new_labels = drawn(10_000, 10, seed + 100)
        fits = [
            MaskedTemperature(ratio=r, centred=False).fit(2.5 * logits, labels, seed=seed) for r in ratios
        ]
        temperatures.append([fit.numbers["temperature"] for fit in fits])
        errors.append(
            [expected_calibration_error(np.exp(fit.log_probabilities(2.5 * new)), new_labels) for fit in fits]
        )
    assert (np.diff(temperatures, axis=1) > 0).all()
    assert np.mean(temperatures, axis=0) == pytest.approx(noted, rel=0.03)
    assert (np.diff(errors, axis=1)[:, 1:] > 0).all()


@pytest.mark.parametrize("centred", [True, False])
def test_masks_do_not_sharpen_where_no_row_is_wrong(centred: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Masks make the only errors of such rows; the temperature of these would be below 1."""
    logits = np.array([[2.0, 0, -1], [0, 3, 1], [-1, 0, 2], [1.5, 0, 0]])
    right = MaskedTemperature(centred=centred).fit(logits, np.array([0, 1, 2, 0]), seed=0)
    assert (float(right.temperature), int(right.at_bound)) == (1.0, -1)
    assert "every label has the largest logit" in caplog.text
    wrong = MaskedTemperature(centred=centred).fit(logits, np.array([0, 1, 2, 1]), seed=0)
    assert int(wrong.at_bound) == 0


def test_only_with_centring_do_masks_not_see_a_constant() -> None:
    logits, labels = drawn(500, 6, 0)
    fitted = {
        (centred, shift): MaskedTemperature(centred=centred)
        .fit(logits + shift, labels, seed=0)
        .numbers["temperature"]
        for centred in (True, False)
        for shift in (0.0, 5.0)
    }
    assert fitted[True, 0.0] == pytest.approx(fitted[True, 5.0], rel=1e-10)
    assert fitted[False, 5.0] > 1.1 * fitted[False, 0.0]


def test_masked_temperature_is_the_minimum_over_its_own_masks() -> None:
    logits, labels = drawn(200, 4, 1)
    method = MaskedTemperature(ratio=0.2, num_masks=3, centred=False)
    found = method.fit(logits, labels, seed=9).numbers["temperature"]
    gaps = list(method._masked(logits, labels, 9))
    assert len(gaps) == 3

    def nll(u: float) -> float:
        return float(
            np.mean([np.log(np.exp(b.gaps / math.exp(u)).sum(0)) - b.at_label / math.exp(u) for b in gaps])
        )

    slow = minimize_scalar(nll, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    in_this_order = fit_temperature_over(method, logits, labels)
    assert math.log(in_this_order) == pytest.approx(slow.x, abs=2e-6)
    assert found == pytest.approx(
        in_this_order, rel=0.1
    )  # the same rows in their own order, so under other masks


def fit_temperature_over(method: MaskedTemperature, logits: Floats, labels: Labels) -> float:
    return temperature_fit.fit_temperature_of(lambda: method._masked(logits, labels, 9)).temperature


@each_case(
    ("fields", "message"),
    [
        ({"ratio": -0.1}, "ratio is -0.1"),
        ({"ratio": 1.0}, "ratio is 1.0"),
        ({"num_masks": 0}, "num_masks is 0"),
    ],
)
def test_options_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedTemperature(**fields)  # type: ignore[arg-type]
