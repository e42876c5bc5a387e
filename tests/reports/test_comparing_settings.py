"""Paired tests, corrections for many comparisons, and robust aggregates: by hand, against scipy, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from pruneyard.reports.statistics.aggregates import (
    interquartile_mean,
    nested_variances,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from pruneyard.reports.statistics.differences import (
    all_pairs,
    equivalence_test,
    holm,
    seeds_for_half_width,
    seeds_to_separate,
    sign_flip_test,
    t_test,
)
from pruneyard.reports.statistics.fronts import hypervolume, on_front
from pruneyard.reports.statistics.intervals import half_width
from pruneyard.reports.statistics.reaching import share_reached


def generator(seed=0):
    return np.random.default_rng(seed)


def test_the_paired_t_test_is_that_of_scipy():
    differences = generator().normal(0.3, 1.0, size=7)
    assert t_test(differences) == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, rel=1e-12)
    assert t_test([0.1, 0.2]) == pytest.approx(stats.ttest_1samp([0.1, 0.2], 0.0).pvalue)


def test_equal_differences_have_no_p_value_unless_they_are_zero():
    assert math.isnan(t_test([0.1 + 0.2, 0.3, 0.3]))  # they differ by rounding
    assert t_test([0.0, 0.0, 0.0]) == 1.0
    assert math.isnan(t_test([0.5]))


def test_sign_flips_of_three_seeds_by_hand():
    # All 8 patterns: only +++ and --- reach |1 + 2 + 3|; of 1, 2, -3 (sum 0) all do.
    assert sign_flip_test([1.0, 2.0, 3.0], generator=generator()) == 0.25
    assert sign_flip_test([1.0, 2.0, -3.0], generator=generator()) == 1.0


def test_random_sign_flips_agree_with_all_of_them_and_are_never_zero():
    differences = generator(1).normal(0.4, 1.0, size=17)
    patterns = (np.arange(2**17)[:, None] >> np.arange(17)) & 1
    exact = (np.abs((1 - 2 * patterns) @ differences) >= abs(differences.sum()) - 1e-9).mean()
    found = sign_flip_test(differences, generator=generator(2))
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert sign_flip_test(np.full(40, 1.0), generator=generator()) == pytest.approx(1 / 20_001)


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    differences = generator(3).normal(0.0, 0.01, size=6)
    above = stats.ttest_1samp(differences, -0.02, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 0.02, alternative="less").pvalue
    assert equivalence_test(differences, margin=0.02) == pytest.approx(max(above, below), rel=1e-10)
    with pytest.raises(ValueError, match="margin is 0; it must be above 0"):
        equivalence_test(differences, margin=0)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1, made monotone: 0.04, 0.06, 0.06, 0.9. A missing one does not count.
    found = holm([0.02, math.nan, 0.9, 0.01, 0.03])
    np.testing.assert_allclose(found, [0.06, math.nan, 0.9, 0.04, 0.06])
    np.testing.assert_array_equal(holm([0.6, 0.7]), [1.0, 1.0])
    assert not len(holm([]))


def test_no_setting_is_called_better_too_often_where_none_is():
    """1,000 studies of five settings and a baseline, five seeds: any false finding in at most 5% of them."""
    rng = generator(4)
    false = 0
    for _ in range(1_000):
        seeds = rng.normal(size=5)  # what the settings share, such as the initial weights
        scores = seeds + rng.normal(size=(6, 5))
        corrected = holm([t_test(row - scores[0]) for row in scores[1:]])
        false += bool((corrected < 0.05).any())
    assert false <= 50 + 3 * math.sqrt(1_000 * 0.05 * 0.95)


def test_a_planted_difference_is_found():
    """The power is above 0.9 for a difference of 1.8 standard deviations, with ten seeds and four comparisons."""
    rng = generator(5)
    found = 0
    for _ in range(300):
        differences = rng.normal(size=(4, 10))
        differences[0] += 1.8
        found += holm([t_test(row) for row in differences])[0] < 0.05
    assert found > 0.9 * 300


def test_the_number_of_seeds_is_the_least_that_narrows_the_interval():
    needed = seeds_for_half_width(1.0, 0.5)
    assert half_width(1.0, needed) < 0.5 <= half_width(1.0, needed - 1)
    assert seeds_for_half_width(0.0, 0.1) == 2
    assert seeds_for_half_width(1.0, 1e-6) is None
    differences = [0.0, 1.0, 2.0]  # mean 1, deviation 1
    separating = seeds_to_separate(differences)
    assert half_width(1.0, separating) < 1.0 <= half_width(1.0, separating - 1)
    assert seeds_to_separate([1.0]) is None
    assert seeds_to_separate([1.0, -1.0]) is None


def test_the_interquartile_mean_is_a_trimmed_mean():
    scores = generator(6).normal(size=(5, 9))
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), rel=1e-12)
    np.testing.assert_allclose(interquartile_mean(scores, axis=1), stats.trim_mean(scores, 0.25, axis=1), rtol=1e-12)
    assert interquartile_mean([0.0, 1.0, 2.0, 100.0]) == 1.5


def test_the_bootstrap_draws_seeds_of_each_task_alone():
    """A task whose seeds do not differ adds nothing to the width, and with one task the interval is that of scipy."""
    scores = generator(7).normal(size=(12, 1))
    low, high = stratified_bootstrap(scores, lambda drawn: drawn.mean(axis=(1, 2)), generator=generator(8), num_draws=20_000)
    known = stats.bootstrap((scores[:, 0],), np.mean, method="percentile", rng=generator(9), n_resamples=20_000)
    width = known.confidence_interval.high - known.confidence_interval.low
    assert low == pytest.approx(known.confidence_interval.low, abs=0.03 * width)
    assert high == pytest.approx(known.confidence_interval.high, abs=0.03 * width)
    constant = np.hstack([np.full((12, 1), 5.0), np.full((12, 1), 7.0)])
    assert stratified_bootstrap(constant, lambda drawn: drawn.mean(axis=(1, 2)), generator=generator()) == (6.0, 6.0)


def test_the_probability_of_improvement_is_that_of_mann_and_whitney():
    a, b = generator(10).integers(0, 6, size=11), generator(11).integers(0, 6, size=8)
    assert probability_of_improvement(a, b) == pytest.approx(stats.mannwhitneyu(a, b).statistic / 88)
    assert probability_of_improvement([1.0], [1.0]) == 0.5


def test_a_performance_profile_falls_from_all_to_none():
    np.testing.assert_allclose(performance_profile([[1, 2], [3, 4]], [0.5, 2.0, 3.5, 4.0]), [1.0, 0.5, 0.25, 0.0])


def test_variances_of_nested_levels_are_recovered():
    """Distillations with deviation 3, trainings with 2, evaluations with 1, and a level that adds nothing."""
    rng = generator(12)
    shape = (400, 4, 3)
    scores = 3 * rng.normal(size=(400, 1, 1)) + 2 * rng.normal(size=(400, 4, 1)) + rng.normal(size=shape)
    np.testing.assert_allclose(nested_variances(scores), [9.0, 4.0, 1.0], rtol=0.15)
    idle = np.broadcast_to(rng.normal(size=(400, 1, 3)), shape)
    assert nested_variances(idle)[1] == 0.0
    np.testing.assert_allclose(nested_variances([1.0, 2.0, 3.0]), [1.0])
    with pytest.raises(ValueError, match="at least two repetitions"):
        nested_variances(np.zeros((3, 1)))


def test_the_share_of_runs_at_the_target_is_that_of_kaplan_and_meier():
    costs, reached = [3.0, 5.0, 5.0, 8.0, 9.0, 12.0], [True, True, False, True, False, True]
    found = share_reached(costs, reached)
    sample = stats.CensoredData.right_censored(np.array(costs), ~np.array(reached))
    known = stats.ecdf(sample)
    np.testing.assert_allclose(found.share, known.cdf.evaluate(found.costs), rtol=1e-12)
    with pytest.warns(RuntimeWarning, match="undefined at some observations"):  # where all runs have reached the target
        interval = known.sf.confidence_interval(0.95, method="log-log")
    inside = found.share < 1
    np.testing.assert_allclose((1 - found.high)[inside], interval.low.evaluate(found.costs)[inside], rtol=1e-10)
    np.testing.assert_allclose((1 - found.low)[inside], interval.high.evaluate(found.costs)[inside], rtol=1e-10)
    assert found.cost_of_share(0.5) == 8.0
    never = share_reached([4.0, 6.0], [False, False])
    assert math.isnan(never.cost_of_share(0.5))


def test_a_front_has_what_nothing_dominates():
    costs = [[1.0, 4.0], [2.0, 2.0], [2.0, 3.0], [4.0, 1.0], [math.nan, 0.0], [1.0, 4.0]]
    np.testing.assert_array_equal(on_front(costs), [True, True, False, True, False, True])


def test_the_hypervolume_is_the_area_by_hand_and_the_share_of_points_below():
    # Boxes to (5, 5): 4 x 1, then 3 x 2 more, then 1 x 1 more.
    assert hypervolume([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [6.0, 0.0]], [5.0, 5.0]) == pytest.approx(4 + 3 * 2 + 1)
    rng = generator(13)
    costs = rng.random((8, 3))
    points = rng.random((200_000, 3))
    share = (points[:, None] >= costs).all(axis=2).any(axis=1).mean()
    assert hypervolume(costs, [1.0, 1.0, 1.0]) == pytest.approx(share, abs=4 * math.sqrt(0.25 / 200_000))
    assert hypervolume([[2.0, 2.0]], [1.0, 1.0]) == 0.0


@pytest.mark.parametrize("is_chosen_by_what_judges", [True, False])
def test_the_setting_that_looks_best_is_called_better_within_the_stated_rate(is_chosen_by_what_judges):
    """1,000 populations of ten equal settings with five seeds: the others, compared with the best one, paired by seed."""
    rng = np.random.default_rng(0)
    num_settings, false_ones = 10, 0
    for _ in range(1_000):
        test_KS = rng.normal(size=(num_settings, 5))
        val_KS = test_KS if is_chosen_by_what_judges else rng.normal(size=test_KS.shape)
        best = int(val_KS.mean(axis=1).argmax())
        p_values = [t_test(test_KS[other] - test_KS[best]) for other in range(num_settings) if other != best]
        false_ones += bool((all_pairs(p_values, num_pairs=num_settings * (num_settings - 1) // 2) < 0.05).any())
    assert false_ones <= 60  # 50 are expected at most; two standard deviations of 1,000 draws are 14


def test_all_pairs_by_hand():
    assert all_pairs([0.01, 0.4, math.nan], num_pairs=10).tolist() == pytest.approx([0.1, 1.0, math.nan], nan_ok=True)
    with pytest.raises(ValueError, match="num_pairs is 2; it must be at least the number of p_values, 3"):
        all_pairs([0.1, 0.2, 0.3], num_pairs=2)
