"""Prediction sets: published values, brute-force twins, coverage by simulation, and the definitions of size and coverage."""

import logging
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest

from pruneyard.testing.cases import each_case
from pruneyard.workloads.calibrate.adaptive_sets import cumulative_scores, ranks_of
from pruneyard.workloads.calibrate.conformal.aps import APS
from pruneyard.workloads.calibrate.conformal.raps import RAPS
from pruneyard.workloads.calibrate.conformal.raps_tuned import TunedRAPS, mean_size
from pruneyard.workloads.calibrate.conformal.split import SplitConformal
from pruneyard.workloads.calibrate.prediction_sets import (
    ConformalRule,
    Floats,
    Labels,
    ScoredRule,
    rank_of_threshold,
    threshold,
)
from pruneyard.workloads.calibrate.set_metrics import (
    SET_METRICS,
    coverage_by_class,
    coverage_by_size,
    set_metrics,
)
from pruneyard.workloads.metrics.classification import softmax
from pruneyard.workloads.seeding import stream_seed

ONE = np.array([[0.15, 0.5, 0.05, 0.3]])
STILL = np.zeros(1)
RULES: dict[str, ScoredRule] = {
    "split": SplitConformal(),
    "aps": APS(),
    "aps, not randomised": APS(randomised=False),
    "raps": RAPS(penalty=0.1, kreg=1),
    "raps, not randomised": RAPS(penalty=0.1, kreg=1, randomised=False),
}


def overconfident_rows(num_rows: int, draws: np.random.Generator, *, num_classes: int = 5) -> tuple[Floats, Labels]:
    """Returns rows of an overconfident network, and labels sampled from the true probabilities; class 0 is rare."""
    logits = draws.normal(size=(num_rows, num_classes)) * 1.5 - 2.0 * (np.arange(num_classes) == 0)
    chosen = (logits + draws.gumbel(size=logits.shape)).argmax(axis=1)
    return softmax(2 * logits), chosen


# Published values


def test_golden_ranks_of_the_threshold() -> None:
    assert rank_of_threshold(19, 0.1) == 18
    assert rank_of_threshold(8, 0.1) == 9
    scores = np.random.default_rng(0).permutation(np.arange(19.0))
    assert threshold(scores, 0.1) == 17.0
    assert threshold(scores[:8], 0.1) == math.inf


def test_golden_scores_of_a_row_that_is_not_sorted() -> None:
    assert APS().scores(ONE, STILL)[0] == pytest.approx([0.95, 0.5, 1.0, 0.8])
    assert RAPS(penalty=0.1, kreg=1).scores(ONE, STILL)[0] == pytest.approx([1.15, 0.5, 1.3, 0.9])
    assert SplitConformal().scores(ONE, STILL)[0] == pytest.approx([0.85, 0.5, 0.95, 0.7])
    assert APS().scores(ONE, np.array([0.5]))[0] == pytest.approx([0.875, 0.25, 0.975, 0.65])


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(1, 999))
def test_the_rank_is_exact_for_every_decimal(num_rows: int, thousandths: int) -> None:
    exact = math.ceil((num_rows + 1) * (1 - Fraction(thousandths, 1000)))
    assert rank_of_threshold(num_rows, thousandths / 1000) == exact


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.05, 0.1, 0.3, 0.5]))
def test_the_threshold_is_the_smallest_that_covers_k_calibration_rows(
    seed: int, num_rows: int, alpha: float
) -> None:
    scores = np.random.default_rng(seed).integers(0, 10, size=num_rows).astype(float)  # many ties
    enough = [
        q
        for q in (*scores, math.inf)
        if (scores <= q).sum() + (q == math.inf) >= rank_of_threshold(num_rows, alpha)
    ]
    assert threshold(scores, alpha) == min(enough)


# Twins


@settings(deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_scores_by_loops_over_rows_and_classes(seed: int, ties: bool) -> None:
    draws = np.random.default_rng(seed)
    p = softmax(np.round(draws.normal(size=(4, 5))) if ties else draws.normal(size=(4, 5)))
    u = draws.random(4)
    prices, ranks = draws.random(5), ranks_of(p)
    scores = cumulative_scores(p, u, prices)
    for i in range(4):
        for k in range(5):
            before = [j for j in range(5) if p[i, j] > p[i, k] or (p[i, j] == p[i, k] and j < k)]
            assert ranks[i, k] == len(before) + 1
            price = prices[len(before)]
            assert scores[i, k] == pytest.approx(p[i, before].sum() + (1 - u[i]) * p[i, k] + price)


@each_case("name", RULES)
def test_sets_hold_the_classes_whose_score_is_at_most_the_threshold(name: str) -> None:
    rule, draws = RULES[name], np.random.default_rng(0)
    fitted = rule.fit(*overconfident_rows(50, draws), seed=3)
    rows, _ = overconfident_rows(30, draws)
    scores = rule.scores(rows, rule.draws(3, "predict", 30))
    assert (fitted.predict(rows) == (scores <= fitted.numbers["threshold"])).all()
    assert (rule.draws(3, "predict", 30) != rule.draws(3, "calibrate", 30)).any() == rule.uses_draws


@each_case("num_rows", [20, 50, 200])
def test_of_the_calibration_rows_themselves_k_are_covered(num_rows: int) -> None:
    """A score equal to the threshold is in the set; no two rows tie."""
    rows, labels = overconfident_rows(num_rows, np.random.default_rng(num_rows))
    sets = SplitConformal().fit(rows, labels, seed=0).predict(rows)
    assert sets[np.arange(num_rows), labels].sum() == rank_of_threshold(num_rows, 0.1)


# Limits


@pytest.mark.parametrize("randomised", [True, False])
def test_raps_without_penalty_or_beyond_all_classes_is_aps_bit_for_bit(randomised: bool) -> None:
    draws = np.random.default_rng(0)
    calibration, (rows, _) = overconfident_rows(60, draws), overconfident_rows(40, draws)
    expected = APS(randomised=randomised).fit(*calibration, seed=1).predict(rows)
    for neutral in ({"penalty": 0.0, "kreg": 0}, {"penalty": 5.0, "kreg": 5}):
        rule = RAPS(randomised=randomised, **neutral)  # type: ignore[arg-type]
        assert (rule.fit(*calibration, seed=1).predict(rows) == expected).all()


def test_a_large_penalty_gives_every_row_its_kreg_most_probable_classes() -> None:
    rows, labels = overconfident_rows(400, np.random.default_rng(0))
    within = ranks_of(rows)[np.arange(400), labels]
    kreg = int(np.sort(within)[rank_of_threshold(400, 0.1) - 1])
    sets = RAPS(penalty=1e6, kreg=kreg - 1, randomised=False).fit(rows, labels, seed=0).predict(rows)
    assert set(sets.sum(axis=1)) <= {kreg - 1, kreg}
    assert (sets == (ranks_of(rows) <= sets.sum(axis=1)[:, None])).all()


def test_a_price_makes_sets_smaller_where_tails_are_long() -> None:
    """Many improbable classes: the case that RAPS is for. Coverage of both stays at 0.9 within three standard errors."""
    draws = np.random.default_rng(0)
    cal, cal_labels = overconfident_rows(2000, draws, num_classes=60)
    test, labels = overconfident_rows(4000, draws, num_classes=60)
    sizes = {}
    for name, rule in {"aps": APS(), "tuned": TunedRAPS()}.items():
        found = set_metrics(rule.fit(cal, cal_labels, seed=0).predict(test), labels, alpha=0.1)
        assert found["coverage"] == pytest.approx(0.9, abs=3 * math.sqrt(0.09 / 1400 + 0.09 / 4000))
        sizes[name] = found["set_size"]
    assert sizes["tuned"] < sizes["aps"]


def test_the_tuned_rule_takes_the_penalty_with_the_smallest_sets_of_the_rows_it_tunes_on() -> None:
    penalties = (0.5, 0.0, 0.002)
    rows, labels = overconfident_rows(400, np.random.default_rng(0), num_classes=40)
    order = np.random.default_rng(stream_seed(5, "calibrate/conformal/tune")).permutation(400)
    tuning = np.sort(order[:120])
    of_true = sorted(ranks_of(rows)[row, labels[row]] for row in tuning)
    kreg = int(of_true[math.ceil(121 * 0.9) - 1])
    sizes = [mean_size(RAPS(penalty=p, kreg=kreg), rows[tuning], labels[tuning], seed=5) for p in penalties]
    assert len(set(sizes)) == len(sizes)
    chosen = TunedRAPS(penalties=penalties).fit(rows, labels, seed=5).numbers
    assert (chosen["penalty"], chosen["kreg"]) == (penalties[sizes.index(min(sizes))], kreg)


def test_the_tuned_rule_chooses_by_size_and_calibrates_on_the_other_rows() -> None:
    rows, labels = overconfident_rows(200, np.random.default_rng(0))
    fitted = TunedRAPS(tuning_fraction=0.25, penalties=(0.3, 0.03)).fit(rows, labels, seed=5)
    assert fitted.num_rows.tolist() == [150] * 5
    assert fitted.numbers["penalty"] in (0.3, 0.03)
    assert isinstance(fitted.rule, RAPS)
    assert (fitted.rule.penalty, fitted.rule.kreg) == (fitted.numbers["penalty"], fitted.numbers["kreg"])
    only = TunedRAPS(tuning_fraction=0.25, penalties=(0.3,)).fit(rows, labels, seed=5)
    assert only.numbers["penalty"] == 0.3
    assert only.numbers["kreg"] == fitted.numbers["kreg"]


# Coverage


@each_case("num_rows", [20, 50, 500])
@each_case("name", RULES)
def test_coverage_of_simulated_populations_is_k_of_n_plus_1(name: str, num_rows: int) -> None:
    """800 calibration sets of n rows, each threshold tried on 40 rows of its own. Scores have no ties but at a sum of 1.

    Mean coverage is k / (n + 1) within three standard errors: those of a Beta variable and of 40 draws, over 800. Where nothing
    is randomised the true class may stand last, at a score of 1 (all rows tie there), which can only add coverage.
    """
    rule, draws, repeats, num_new = RULES[name], np.random.default_rng(7), 800, 40
    rows, labels = overconfident_rows(repeats * (num_rows + num_new), draws)
    of_true = rule.scores(rows, draws.random(len(rows)) if rule.uses_draws else np.zeros(len(rows)))
    of_true = of_true[np.arange(len(rows)), labels].reshape(repeats, num_rows + num_new)
    thresholds = np.array([threshold(part[:num_rows], 0.1) for part in of_true])
    coverage = (of_true[:, num_rows:] <= thresholds[:, None]).mean(axis=1)
    k = rank_of_threshold(num_rows, 0.1)
    expected = k / (num_rows + 1)
    error = math.sqrt((beta(k, num_rows + 1 - k).var() + expected * (1 - expected) / num_new) / repeats)
    assert expected >= 0.9
    if rule.uses_draws or name == "split":
        assert coverage.mean() == pytest.approx(expected, abs=3 * error)
    else:
        assert coverage.mean() > expected - 3 * error


def test_coverage_given_the_calibration_rows_follows_a_beta_law() -> None:
    """Uniform scores: coverage is the threshold itself. n + 1 - l = 46 and l = floor(51 / 10) = 5."""
    thresholds = [threshold(part, 0.1) for part in np.random.default_rng(0).random((4000, 50))]
    assert kstest(thresholds, beta(46, 5).cdf).pvalue > 0.01


@each_case("rule", [SplitConformal(), APS(), TunedRAPS()], ids=["split", "aps", "raps_tuned"])
@each_case("num_rows", [20, 50])
def test_sets_of_fitted_rules_cover_what_is_asked_for(rule: ConformalRule, num_rows: int) -> None:
    """From fit to predict, 300 times with 100 new rows each; at least 1 - alpha within three standard errors."""
    draws, covered = np.random.default_rng(11), []
    for repeat in range(300):
        fitted = rule.fit(*overconfident_rows(num_rows, draws), seed=repeat)
        rows, labels = overconfident_rows(100, draws)
        covered.append(fitted.predict(rows)[np.arange(100), labels].mean())
    assert np.mean(covered) > 0.9 - 3 * np.std(covered) / math.sqrt(len(covered))


def test_one_threshold_fails_a_class_that_a_threshold_for_each_covers() -> None:
    draws = np.random.default_rng(0)
    (cal, cal_labels), (test, labels) = overconfident_rows(4000, draws), overconfident_rows(8000, draws)
    one, each = (
        coverage_by_class(
            SplitConformal(by_class=by_class).fit(cal, cal_labels, seed=0).predict(test), labels
        )
        for by_class in (False, True)
    )
    counts = np.bincount(cal_labels)
    error = np.sqrt(0.09 / counts + 0.09 / np.bincount(labels))
    assert one.coverage[0] < 0.9 - 3 * error[0]  # the rare class
    assert (np.abs(each.coverage - 0.9) < 3 * error + 1 / counts).all()


# Few rows


def test_too_few_rows_give_full_sets_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    rows, labels = overconfident_rows(8, np.random.default_rng(0))
    fitted = SplitConformal().fit(rows, labels, seed=0)
    assert fitted.predict(rows).all()
    assert fitted.numbers == {"infinite_thresholds": 5}
    assert (
        "split: alpha 0.1 needs at least 9 calibration rows, but there are 8; every set has all classes" in caplog.text
    )


def test_a_class_with_too_few_rows_is_in_every_set_and_named(caplog: pytest.LogCaptureFixture) -> None:
    rows, _ = overconfident_rows(40, np.random.default_rng(0), num_classes=3)
    labels = np.array([0] * 20 + [1] * 20)
    labels[:4] = 2
    fitted = APS(by_class=True, alpha=0.2).fit(rows, labels, seed=0)
    assert np.isinf(fitted.thresholds).tolist() == [False, False, False]
    labels[0] = 1
    with caplog.at_level(logging.WARNING):
        fitted = APS(by_class=True, alpha=0.2).fit(rows, labels, seed=0)
    assert np.isinf(fitted.thresholds).tolist() == [False, False, True]
    assert fitted.num_rows.tolist() == [16, 21, 3]
    assert fitted.predict(rows)[:, 2].all()
    assert fitted.numbers == {"infinite_thresholds": 1}
    assert (
        "aps: alpha 0.2 needs at least 4 calibration rows per class; these classes are in every set: 2 (3 rows)" in caplog.text
    )


# Metrics

SETS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1]], dtype=bool)
LABELS = np.array([0, 2, 1, 0, 1, 2])


def test_golden_metrics_of_six_sets() -> None:
    """Covered: 1 0 1 0 1 1. Sizes 1 1 2 0 3 2: of 0 to 1 one in three is covered, of 2 to 3 three in three."""
    found = set_metrics(SETS, LABELS, alpha=0.1)
    assert found == pytest.approx(
        {
            "coverage": 4 / 6,
            "set_size": 1.5,
            "set_size_median": 1.5,
            "singleton_rate": 2 / 6,
            "empty_rate": 1 / 6,
            "coverage_violation_by_size": 0.9 - 1 / 3,
            "coverage_of_worst_class": 0.5,
        }
    )
    assert list(found) == list(SET_METRICS)


def test_coverage_by_group_says_how_many_rows_it_is_of() -> None:
    by_class = coverage_by_class(np.c_[SETS, np.zeros((6, 1), dtype=bool)], LABELS)
    assert by_class.coverage == pytest.approx([0.5, 1.0, 0.5, np.nan], nan_ok=True)
    assert by_class.count.tolist() == [2, 2, 2, 0]
    by_size = coverage_by_size(SETS, LABELS, starts=(0, 1, 2))
    assert by_size.coverage == pytest.approx([0, 0.5, 1])
    assert by_size.count.tolist() == [1, 2, 3]
    assert coverage_by_size(SETS, LABELS).count.tolist() == [3, 3, 0, 0, 0]


@each_case(
    ("sets", "labels", "message"),
    [
        (SETS.astype(int), LABELS, "sets are int64"),
        (SETS[0], LABELS[:3], "must be bool"),
        (SETS[:0], LABELS[:0], "with N >= 1"),
        (SETS, LABELS[:3], r"must be integers \(6,\)"),
        (SETS, LABELS.astype(float), "labels are float64"),
        (SETS, np.array([0, 2, 3, 0, 1, 2]), r"row 2 has label 3; it must lie in \[0, 3\)"),
    ],
)
def test_bad_sets_are_refused(sets: Floats, labels: Labels, message: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: set_metrics(sets, labels, alpha=0.1),
        lambda: coverage_by_class(sets, labels),
        lambda: coverage_by_size(sets, labels),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_options_of_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha is 1\.0; it must lie in \(0, 1\)"):
        set_metrics(SETS, LABELS, alpha=1.0)
    for starts in ((), (1, 2), (0, 2, 2), (0, 3, 2)):
        with pytest.raises(ValueError, match="must increase from 0"):
            coverage_by_size(SETS, LABELS, starts=starts)
    refused: list[tuple[type[ConformalRule], dict[str, object], str]] = [
        (RAPS, {"penalty": -1.0, "kreg": 1}, r"penalty is -1\.0; it must be 0 or more"),
        (RAPS, {"penalty": 1.0, "kreg": -1}, "kreg is -1; it must be 0 or more"),
        (TunedRAPS, {"tuning_fraction": 1.0}, r"tuning_fraction is 1\.0; it must lie in \(0, 1\)"),
        (TunedRAPS, {"penalties": ()}, r"penalties are \(\); there must be at least one"),
        (TunedRAPS, {"penalties": (-1.0,)}, "none below 0"),
    ]
    for rule, options, message in refused:
        with pytest.raises(ValueError, match=message):
            rule(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is 1 calibration row; raps_tuned needs at least 2"):
        TunedRAPS().fit(ONE, [0], seed=0)
