"""Intervals worked by hand, and their coverage."""

import math

import numpy as np
import pytest

from pruneyard.reports.statistics.intervals import clearly_best, estimate, half_width
from pruneyard.testing.cases import each_case


def test_interval_of_three_seeds_by_hand():
    # sd = 1, t(0.975, 2) = 4.302653, half width = 4.302653 / sqrt(3)
    found = estimate([1.0, 2.0, 3.0])
    assert found.num == 3
    assert found.mean == 2.0
    assert found.sd == 1.0
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-6)


def test_one_seed_has_a_mean_and_no_interval():
    found = estimate([0.5])
    assert found.mean == 0.5
    assert math.isnan(found.sd)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_lost_seed_is_not_averaged_away():
    assert math.isnan(estimate([0.5, math.nan]).mean)


def test_leading_axes_are_kept():
    found = estimate(np.arange(12.0).reshape(2, 2, 3))
    assert found.mean.shape == (2, 2)
    np.testing.assert_array_equal(found.mean, [[1, 4], [7, 10]])


def test_no_seed_and_impossible_levels_are_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        estimate([])
    with pytest.raises(ValueError, match="level is 95"):
        half_width([1.0], [3], level=95)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = estimate(rng.standard_normal((20_000, 3)))
    covered = ((found.low <= 0) & (found.high >= 0)).mean()
    assert covered == pytest.approx(0.95, abs=0.006)  # 4 standard errors of a share of 0.95 in 20,000


@pytest.mark.parametrize("larger", [True, False])
def test_clearly_best_asks_for_an_interval_beyond_all_others(larger):
    sign = 1 if larger else -1
    lows = np.array([0.5, 0.8, 0.1])
    highs = np.array([0.7, 0.9, 0.2])
    low, high = (lows, highs) if larger else (sign * highs, sign * lows)
    assert clearly_best(low, high, larger_is_better=larger) == 1
    highs[0] = 0.85
    low, high = (lows, highs) if larger else (sign * highs, sign * lows)
    assert clearly_best(low, high, larger_is_better=larger) is None


def test_nothing_is_best_alone_or_against_a_single_seed():
    assert clearly_best([0.5], [0.6], larger_is_better=True) is None
    assert clearly_best([0.5, math.nan], [0.6, math.nan], larger_is_better=True) is None


@each_case("num_methods", [2, 5, 20])
@each_case("num_seeds", [2, 3, 5])
def test_equal_methods_are_seldom_called_different(num_methods, num_seeds):
    rng = np.random.default_rng(num_methods)
    found = estimate(rng.standard_normal((1000, num_methods, num_seeds)))
    pairs = zip(found.low, found.high, strict=True)
    wrong = sum(clearly_best(low, high, larger_is_better=True) is not None for low, high in pairs)
    assert wrong <= 50  # stated rate: 5% of populations
