"""Calibration measures against plain loops, and changes of the input that must not change them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from pruneyard.testing.cases import each_case
from pruneyard.workloads.metrics.classification import (
    accuracy,
    adaptive_calibration_error,
    all_metrics,
    augrc,
    aurc,
    balance_score,
    brier_decomposition,
    brier_score,
    class_probabilities,
    classwise_calibration_error,
    classwise_calibration_errors,
    debiased_calibration_error,
    debiased_squared_calibration_error,
    e_aurc,
    expected_calibration_error,
    kolmogorov_smirnov_error,
    maximum_calibration_error,
    negative_log_likelihood,
    noise_floor,
    reliability,
    root_mean_square_calibration_error,
    smooth_calibration_error,
    softmax,
)

Rows = list[tuple[float, bool]]


def drawn(seed: int, rows: int, classes: int, *, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns random probabilities and labels; tied: with few distinct values, as votes have."""
    generator = np.random.default_rng(seed)
    if tied:
        votes = generator.multinomial(4, [1 / classes] * classes, size=rows)
        return votes / 4, generator.integers(classes, size=rows)
    return softmax(generator.normal(size=(rows, classes)) * 3), generator.integers(classes, size=rows)


cases = given(
    seed=st.integers(0, 10_000), rows=st.integers(1, 40), classes=st.integers(2, 5), tied=st.booleans()
)


def pairs(p: np.ndarray, y: np.ndarray) -> Rows:
    return [(float(row.max()), bool(row.argmax() == label)) for row, label in zip(p, y, strict=True)]


def equal_width_groups(rows: Rows, num_bins: int) -> list[Rows]:
    groups: list[Rows] = [[] for _ in range(num_bins)]
    for c, hit in rows:
        groups[min(max(math.ceil(c * num_bins) - 1, 0), num_bins - 1)].append((c, hit))
    return [group for group in groups if group]


def equal_mass_groups(rows: Rows, num_bins: int) -> list[Rows]:
    """Returns groups of rows; rows of equal confidence count with their mean outcome, whichever group they fall into."""
    ordered = sorted(rows, key=lambda row: row[0])
    same: dict[float, list[float]] = {}
    for confidence, hit in ordered:
        same.setdefault(confidence, []).append(hit)
    pooled = [(confidence, sum(same[confidence]) / len(same[confidence])) for confidence, _ in ordered]
    return [[pooled[i] for i in part] for part in np.array_split(np.arange(len(rows)), num_bins) if len(part)]


def gap(group: Rows) -> float:
    return sum(hit for _, hit in group) / len(group) - sum(c for c, _ in group) / len(group)


@cases
@pytest.mark.parametrize(("binning", "grouped"), [("equal_width", equal_width_groups), ("equal_mass", equal_mass_groups)])
@settings(max_examples=60)
def test_binned_errors_equal_their_loops(binning, grouped, seed: int, rows: int, classes: int, tied: bool) -> None:  # type: ignore[no-untyped-def]
    p, y = drawn(seed, rows, classes, tied=tied)
    groups = grouped(pairs(p, y), 7)
    options = {"num_bins": 7, "binning": binning}
    assert expected_calibration_error(p, y, **options) == pytest.approx(
        sum(len(g) / rows * abs(gap(g)) for g in groups), abs=1e-12
    )
    assert maximum_calibration_error(p, y, **options) == pytest.approx(max(abs(gap(g)) for g in groups), abs=1e-12)
    squared = sum(len(g) / rows * gap(g) ** 2 for g in groups)
    assert root_mean_square_calibration_error(p, y, **options) == pytest.approx(math.sqrt(squared), abs=1e-9)
    debiased = 0.0
    for g in groups:
        hits = sum(hit for _, hit in g) / len(g)
        if len(g) > 1:
            debiased += len(g) / rows * (gap(g) ** 2 - hits * (1 - hits) / (len(g) - 1))
    assert debiased_squared_calibration_error(p, y, **options) == pytest.approx(debiased, abs=1e-12)
    assert debiased_calibration_error(p, y, **options) == pytest.approx(math.sqrt(max(debiased, 0)), abs=1e-6)
    assert reliability(p, y, **options).num_empty == 7 - len(groups)


@cases
def test_classwise_errors_and_brier_parts_equal_their_loops(seed: int, rows: int, classes: int, tied: bool) -> None:
    p, y = drawn(seed, rows, classes, tied=tied)
    each, rel, res, unc = [], 0.0, 0.0, 0.0
    for k in range(classes):
        base = sum(label == k for label in y) / rows
        groups = equal_width_groups([(float(row[k]), bool(label == k)) for row, label in zip(p, y, strict=True)], 6)
        each.append(sum(len(g) / rows * abs(gap(g)) for g in groups) if base else math.nan)
        for g in groups:
            rel += len(g) / rows * gap(g) ** 2
            res += len(g) / rows * (sum(hit for _, hit in g) / len(g) - base) ** 2
        unc += base * (1 - base)
    assert classwise_calibration_errors(p, y, num_bins=6) == pytest.approx(each, abs=1e-12, nan_ok=True)
    present = [error for error in each if not math.isnan(error)]
    assert classwise_calibration_error(p, y, num_bins=6) == pytest.approx(sum(present) / len(present), abs=1e-12)
    parts = brier_decomposition(p, y, num_bins=6)
    assert (parts.reliability, parts.resolution, parts.uncertainty) == pytest.approx((rel, res, unc), abs=1e-12)
    assert parts.brier == pytest.approx(brier_score(p, y), abs=1e-12)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6))
def test_risks_are_means_over_all_orders_of_equal_confidences(seed: int, rows: int) -> None:
    p, y = drawn(seed, rows, 3, tied=True)
    found = pairs(p, y)
    areas, joint = [], []
    for order in itertools.permutations(found):
        if any(a[0] < b[0] for a, b in itertools.pairwise(order)):
            continue
        errors = list(itertools.accumulate(not hit for _, hit in order))
        areas.append(sum(e / k for k, e in enumerate(errors, 1)) / rows)
        joint.append(sum(errors) / rows / rows)
    assert aurc(p, y) == pytest.approx(sum(areas) / len(areas), abs=1e-12)
    assert augrc(p, y) == pytest.approx(sum(joint) / len(joint), abs=1e-12)
    best = sorted((hit for _, hit in found), reverse=True)
    optimum = sum(e / k for k, e in enumerate(itertools.accumulate(not hit for hit in best), 1)) / rows
    assert e_aurc(p, y) == pytest.approx(aurc(p, y) - optimum, abs=1e-12)


@cases
def test_ks_and_balance_equal_their_loops(seed: int, rows: int, classes: int, tied: bool) -> None:
    p, y = drawn(seed, rows, classes, tied=tied)
    found = pairs(p, y)
    running = [sum(c - hit for c, hit in found if c <= limit) / rows for limit in {c for c, _ in found}]
    assert kolmogorov_smirnov_error(p, y) == pytest.approx(max(map(abs, running)), abs=1e-12)
    gain = [(1 - c) if hit else -c for c, hit in found]
    assert balance_score(p, y) == pytest.approx(sum(gain) / rows, abs=1e-12)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 12), bandwidth=st.floats(0.02, 2.0))
@settings(max_examples=25)
def test_smooth_error_is_that_of_reflected_gaussians(seed: int, rows: int, bandwidth: float) -> None:
    """Images of every row on both sides, as far as a Gaussian reaches, on a fine mesh."""
    p, y = drawn(seed, rows, 3, tied=False)
    mesh = np.linspace(0, 1, 4001)
    total = np.zeros_like(mesh)
    for c, hit in pairs(p, y):
        for turn in range(-8, 9):
            for image in (c + 2 * turn, 2 * turn - c):
                density = np.exp(-(((mesh - image) / bandwidth) ** 2) / 2) / (bandwidth * math.sqrt(2 * math.pi))
                total += density * (c - hit) / rows
    assert smooth_calibration_error(p, y, bandwidth=bandwidth) == pytest.approx(
        float(np.trapezoid(np.abs(total), mesh)), rel=1e-4, abs=1e-6
    )


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40), tied=st.booleans())
@settings(max_examples=30)
def test_smooth_error_is_its_own_bandwidth(seed: int, rows: int, tied: bool) -> None:
    p, y = drawn(seed, rows, 4, tied=tied)
    found = smooth_calibration_error(p, y)
    if found > 1e-6:
        assert smooth_calibration_error(p, y, bandwidth=found) == pytest.approx(found, abs=1e-7)
    assert abs(balance_score(p, y)) - 1e-9 <= found <= 1


ORDER_FREE = [
    expected_calibration_error,
    maximum_calibration_error,
    root_mean_square_calibration_error,
    debiased_squared_calibration_error,
    classwise_calibration_error,
    smooth_calibration_error,
    kolmogorov_smirnov_error,
    balance_score,
    aurc,
    e_aurc,
    augrc,
    brier_score,
    accuracy,
]


@given(seed=st.integers(0, 10_000), tied=st.booleans())
@settings(max_examples=25)
def test_the_order_of_rows_never_matters_even_among_equal_confidences(seed: int, tied: bool) -> None:
    p, y = drawn(seed, 30, 4, tied=tied)
    order = np.random.default_rng(seed + 1).permutation(30)
    for measure in ORDER_FREE:
        assert measure(p[order], y[order]) == pytest.approx(measure(p, y), abs=1e-9), measure.__name__


@given(seed=st.integers(0, 10_000))
def test_equal_mass_depends_on_order_only_where_a_cut_parts_equal_confidences(seed: int) -> None:
    p, y = drawn(seed, 30, 4, tied=False)
    order = np.random.default_rng(seed + 1).permutation(30)
    assert adaptive_calibration_error(p[order], y[order]) == pytest.approx(adaptive_calibration_error(p, y), abs=1e-12)


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5))
@settings(max_examples=25)
def test_names_of_classes_do_not_matter(seed: int, classes: int) -> None:
    p, y = drawn(seed, 30, classes, tied=False)
    names = np.random.default_rng(seed + 1).permutation(classes)
    renamed = np.empty_like(p)
    renamed[:, names] = p
    for measure in [*ORDER_FREE, adaptive_calibration_error]:
        assert measure(renamed, names[y]) == pytest.approx(measure(p, y), abs=1e-9), measure.__name__


@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50), num_extra=st.integers(0, 2))
@settings(max_examples=25)
def test_no_metric_depends_on_constants_or_impossible_outputs_added_to_a_row(seed: int, shift: float, num_extra: int) -> None:
    generator = np.random.default_rng(seed)
    logits, y = generator.normal(size=(50, 4)) * 2, generator.integers(4, size=50)
    p = softmax(logits)
    padded = np.column_stack([logits + shift, np.full((50, num_extra), -np.inf)])
    parts = brier_decomposition(p, y, num_bins=9)
    floor = noise_floor(p[np.argsort(p.max(axis=1))], num_bins=9, seed=3)
    assert all_metrics(padded, y, num_bins=9, num_extra=num_extra, seed=3) == pytest.approx(
        {
            "accuracy": accuracy(p, y),
            "nll": negative_log_likelihood(logits, y),
            "ece": expected_calibration_error(p, y, num_bins=9),
            "ece_adaptive": adaptive_calibration_error(p, y, num_bins=9),
            "brier": brier_score(p, y),
            "ece_floor": floor.mean,
            "ece_floor_95": float(np.sort(floor.draws)[94:96] @ [0.95, 0.05]),  # interpolated at 0.95 * 99 = 94.05
            "ece_smooth": smooth_calibration_error(p, y),
            "ece_classwise": classwise_calibration_error(p, y, num_bins=9),
            "rmsce": root_mean_square_calibration_error(p, y, num_bins=9),
            "rmsce_debiased": debiased_calibration_error(p, y, num_bins=9),
            "mce": maximum_calibration_error(p, y, num_bins=9, min_count=2),
            "ks": kolmogorov_smirnov_error(p, y),
            "balance": balance_score(p, y),
            "empty_bins": reliability(p, y, num_bins=9).num_empty,
            "brier_top_label": float(np.mean((p.max(axis=1) - (p.argmax(axis=1) == y)) ** 2)),
            "brier_reliability": parts.reliability,
            "brier_resolution": parts.resolution,
            "brier_uncertainty": parts.uncertainty,
            "aurc": aurc(p, y),
            "e_aurc": e_aurc(p, y),
            "augrc": augrc(p, y),
            "balanced_accuracy": np.mean(recalls := [np.mean(p.argmax(axis=1)[y == k] == k) for k in range(4)]),
            "accuracy_of_worst_class": min(recalls),
            "macro_f1": f1_score(y, p.argmax(axis=1), average="macro"),
        },
        abs=1e-7,
    )


@each_case("num_extra", [0, 1])
@each_case("dtype", [np.float32, np.float64])
def test_rows_in_many_chunks_are_those_of_one(dtype: type, num_extra: int) -> None:
    """20,000 rows of five outputs are worked on in four parts."""
    logits = np.random.default_rng(0).normal(size=(20_000, 5)).astype(dtype)
    whole = np.exp(logits.astype(np.float64))
    whole /= whole.sum(axis=1, keepdims=True)
    assert class_probabilities(logits, num_extra=num_extra) == pytest.approx(whole[:, : 5 - num_extra], abs=1e-14)


BAD = [
    ([[0.5, np.nan]], [0], "row 0 .* must be finite"),
    ([[0.5, np.inf]], [0], "row 0 .* must be finite"),
    ([[0.5, 0.5], [0.9, 0.3]], [0, 1], "row 1 .* must sum to 1"),
    ([[1.5, -0.5]], [0], "must not be negative"),
    ([[0.5, 0.5]], [2], r"must lie in \[0, 2\)"),
    ([[0.5, 0.5]], [-1], r"must lie in \[0, 2\)"),
    ([[0.5, 0.5]], [0.0], "must be integers"),
    ([[0.5, 0.5]], [0, 1], r"must be \(1,\)"),
    (np.empty((0, 3)), np.empty(0, dtype=int), "N >= 1"),
    ([[1.0]], [0], "C >= 2"),
]


@each_case(("probabilities", "labels", "message"), BAD)
@each_case("measure", [*ORDER_FREE, adaptive_calibration_error, brier_decomposition])
def test_bad_input_is_never_a_number(measure, probabilities: object, labels: object, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        measure(probabilities, labels)


@each_case(
    ("logits", "labels", "message"),
    [
        ([[0.0, 1.0], [np.nan, 0.0]], [0, 0], "row 1 of the logits .* must be finite"),
        ([[np.inf, 0.0]], [0], "must be finite"),
        ([[-np.inf, -np.inf]], [0], "must be finite"),
        ([[0.0, 2.0]], [2], r"must lie in \[0, 2\)"),
        ([[0.0, 2.0]], [True], "must be integers"),
        (np.empty((0, 2)), np.empty(0, dtype=int), "N >= 1"),
        ([0.0, 1.0], [0], "must be \\(N, C\\)"),
    ],
)
def test_bad_logits_are_never_a_number(logits: object, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        all_metrics(logits, labels)  # type: ignore[arg-type]


def test_options_out_of_range_are_refused() -> None:
    p, y = np.array([[0.4, 0.6]]), [1]
    with pytest.raises(ValueError, match="num_bins is 0"):
        expected_calibration_error(p, y, num_bins=0)
    with pytest.raises(ValueError, match="num_bins is 0"):
        all_metrics(np.log(p), y, num_bins=0)
    with pytest.raises(ValueError, match="num_bins is -1"):
        classwise_calibration_error(p, y, num_bins=-1)
    with pytest.raises(ValueError, match="binning is 'quantile'"):
        expected_calibration_error(p, y, binning="quantile")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_count is 2; it must be at most 1"):
        maximum_calibration_error(p, y, min_count=2)
    with pytest.raises(ValueError, match="bandwidth is 0"):
        smooth_calibration_error(p, y, bandwidth=0.0)
