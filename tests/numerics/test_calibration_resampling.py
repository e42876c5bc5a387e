"""The noise floor and bootstrap intervals against simulation and known laws."""

import math

import numpy as np
import pytest

from pruneyard.testing.cases import each_case
from pruneyard.workloads.metrics.classification import (
    expected_calibration_error,
    noise_floor,
    softmax,
)


def calibrated(seed: int, rows: int) -> np.ndarray:
    """Returns rows of ten classes, with logits of standard deviation 2."""
    return softmax(np.random.default_rng(seed).normal(size=(rows, 10)) * 2)


@each_case(
    ("rows", "num_bins", "binning", "published"),
    [
        (100, 15, "equal_width", 0.1194),
        (1000, 15, "equal_width", 0.0378),
        (1000, 50, "equal_width", 0.0683),
        (1000, 15, "equal_mass", 0.0460),
        (5000, 10, "equal_mass", 0.0167),
    ],
)
def test_floors_are_those_of_an_independent_simulation(rows: int, num_bins: int, binning: str, published: float) -> None:
    """Means of 100 models with labels of all classes, measured before this code was: within 10%."""
    floors = [
        noise_floor(calibrated(seed, rows), num_bins=num_bins, binning=binning, num_draws=20, seed=seed).mean  # type: ignore[arg-type]
        for seed in range(20)
    ]
    assert np.mean(floors) == pytest.approx(published, rel=0.1)


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_floor_is_the_ece_of_labels_drawn_from_the_probabilities(binning: str) -> None:
    p = calibrated(0, 400)
    generator = np.random.default_rng(1)
    errors = []
    for _ in range(400):
        labels = (generator.random((400, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
        errors.append(expected_calibration_error(p, labels, binning=binning))  # type: ignore[arg-type]
    floor = noise_floor(p, binning=binning, num_draws=400)  # type: ignore[arg-type]
    spread = math.hypot(np.std(errors), floor.draws.std()) / math.sqrt(400)
    assert abs(np.mean(errors) - floor.mean) < 4 * spread
    assert floor.quantile(0.95) == pytest.approx(np.quantile(errors, 0.95), rel=0.1)


def test_floor_of_one_bin_is_the_mean_deviation_of_a_normal() -> None:
    p = np.full((10_000, 2), 0.5)
    expected = math.sqrt(2 / math.pi) * 0.5 / math.sqrt(10_000)
    assert noise_floor(p, num_bins=1, num_draws=2000).mean == pytest.approx(expected, rel=0.06)
    assert noise_floor(np.array([[1.0, 0.0]] * 5)).mean == 0


def test_calibrated_networks_exceed_the_quantile_as_often_as_it_says_and_others_nearly_always() -> None:
    above = 0
    for seed in range(200):
        p = calibrated(seed, 300)
        draws = np.random.default_rng(seed + 10_000).random((300, 1))
        labels = (draws > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
        above += expected_calibration_error(p, labels) > noise_floor(p, num_draws=99, seed=seed).quantile(0.9)
    assert 8 <= above <= 34  # 20 expected, within 3.3 standard deviations
    assert noise_floor(calibrated(0, 300), num_draws=99).quantile(0.95) < 0.2


def test_draws_are_those_of_the_seed() -> None:
    p = calibrated(0, 50)
    assert (noise_floor(p, seed=1).draws == noise_floor(p, seed=1).draws).all()
    assert not np.array_equal(noise_floor(p, seed=1).draws, noise_floor(p, seed=2).draws)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="num_draws is 0"):
        noise_floor([[0.5, 0.5]], num_draws=0)
    with pytest.raises(ValueError, match="must sum to 1"):
        noise_floor([[0.5, 0.4]])
