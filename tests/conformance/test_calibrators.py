"""Rules that every post-hoc calibrator must keep. Members are found by their files."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from pruneyard.testing.cases import each_case
from pruneyard.testing.plug_in import build_with, examples
from pruneyard.workloads.calibrate import calibrator
from pruneyard.workloads.calibrate.calibrator import Calibrator, Floats, Labels
from pruneyard.workloads.metrics.classification import (
    accuracy,
    expected_calibration_error,
    negative_log_likelihood,
    softmax,
)
from pruneyard.workloads.plugins import Settings, names

FAMILY = "calibrate.methods"
OVERCONFIDENCE = 2.5  # the factor by which the planted logits are too large
MEMBERS = [(name, settings) for name in names(FAMILY) for settings in examples(FAMILY, name)]

every_member = pytest.mark.parametrize(
    ("name", "settings"), MEMBERS, ids=[" ".join([name, *settings]) for name, settings in MEMBERS]
)


def build(name: str, settings: Settings | None = None) -> Calibrator:
    built: Calibrator = build_with(FAMILY, name, settings or {})
    return built


@cache
def rows(num_rows: int = 600, num_classes: int = 4, seed: int = 0) -> tuple[Floats, Labels]:
    """Returns logits that are too large by a factor: divided by it, their softmax is the distribution of the labels."""
    generator = np.random.default_rng(seed)
    true_logits = 2 * generator.normal(size=(num_rows, num_classes))
    labels = (true_logits + generator.gumbel(size=true_logits.shape)).argmax(axis=1)
    logits = true_logits * OVERCONFIDENCE
    logits.flags.writeable = labels.flags.writeable = False
    return logits, labels


def edge_case_logits(num_classes: int) -> Floats:
    """Returns rows with ties, adjacent float64 values, saturated and all-equal rows, and rows far from the fitted ones."""
    base = np.linspace(-1, 1, num_classes)
    tied, above, first = base.copy(), base.copy(), base.copy()
    tied[0] = base[-1]
    above[0], above[-1] = 1.0, np.nextafter(1.0, 2)
    first[-1], first[0] = 1.0, np.nextafter(1.0, 2)
    scaled = [scale * row for row in (base, tied, above, first) for scale in (1e-8, 1.0, 3.0, 1e3, 1e6)]
    return np.array([*scaled, *(-row for row in scaled), np.zeros(num_classes), np.full(num_classes, 7.0)])


@every_member
def test_a_fitted_calibrator_is_of_another_type(name: str, settings: Settings) -> None:
    calibrator = build(name, settings)
    fitted = calibrator.fit(*rows(), seed=0)
    assert not hasattr(calibrator, "log_probabilities")
    assert not hasattr(fitted, "fit")


@every_member
def test_rows_are_mapped_alike_in_one_block_and_in_several(
    name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(name, settings).fit(*rows(), seed=0)
    expected = whole.log_probabilities(rows(50, seed=1)[0])
    monkeypatch.setattr(calibrator, "BLOCK_VALUES", 4 * 7)
    in_blocks = build(name, settings).fit(*rows(), seed=0)
    np.testing.assert_allclose(in_blocks.log_probabilities(rows(50, seed=1)[0]), expected, rtol=0, atol=1e-9)


@every_member
@each_case("num_classes", [2, 3, 12])
def test_every_row_is_a_distribution_for_any_logits(
    name: str, settings: Settings, num_classes: int
) -> None:
    fitted = build(name, settings).fit(*rows(300, num_classes), seed=0)
    for logits in (*rows(50, num_classes, seed=1)[:1], edge_case_logits(num_classes)):
        log_probabilities = fitted.log_probabilities(logits)
        assert log_probabilities.shape == logits.shape
        assert log_probabilities.dtype == np.float64
        assert np.isfinite(log_probabilities).all()
        assert np.exp(log_probabilities).sum(axis=1) == pytest.approx(1.0, abs=1e-12)
    assert all(np.isfinite(value) for value in fitted.numbers.values())


@every_member
def test_predictions_stay_to_the_last_row_exactly_where_that_is_promised(name: str, settings: Settings) -> None:
    """Without the promise a fit must be able to correct predictions, so it is not withheld without reason."""
    calibrator = build(name, settings)
    if calibrator.keeps_argmax:
        for num_classes in (2, 5, 40):
            assert_keeps_predictions(calibrator, num_classes)
    else:
        assert_corrects_predictions(calibrator)


def assert_keeps_predictions(calibrator: Calibrator, num_classes: int) -> None:
    fitted = calibrator.fit(*rows(300, num_classes), seed=0)
    for logits in (rows(5_000, num_classes, seed=1)[0], edge_case_logits(num_classes)):
        log_probabilities = fitted.log_probabilities(logits)
        assert np.array_equal(log_probabilities.argmax(axis=1), logits.argmax(axis=1)), num_classes
        assert np.array_equal(softmax(log_probabilities).argmax(axis=1), logits.argmax(axis=1)), num_classes


def assert_corrects_predictions(calibrator: Calibrator) -> None:
    """Fits logits that are biased towards one class."""
    logits, labels = rows()
    biased = logits + np.array([6.0, 0.0, 0.0, 0.0])
    log_probabilities = calibrator.fit(biased, labels, seed=0).log_probabilities(biased)
    assert accuracy(np.exp(log_probabilities), labels) > accuracy(softmax(biased), labels) + 0.05


@every_member
def test_a_fitted_one_comes_back_from_its_tensors_bit_for_bit(name: str, settings: Settings) -> None:
    calibrator = build(name, settings)
    fitted = calibrator.fit(*rows(), seed=0)
    stored = save(dict(fitted.tensors))
    restored = calibrator.restore(load(stored))
    assert type(restored) is type(fitted)
    assert restored.numbers == fitted.numbers
    logits = rows(700, seed=1)[0]
    assert np.array_equal(restored.log_probabilities(logits), fitted.log_probabilities(logits))
    with pytest.raises(ValueError, match="tensors are"):
        calibrator.restore({**fitted.tensors, "foreign": np.zeros(1)})
    with pytest.raises(ValueError, match="tensors are"):
        calibrator.restore({})


@every_member
def test_the_order_of_rows_does_not_matter(name: str, settings: Settings) -> None:
    logits, labels = rows()
    twice, labels_twice = np.concatenate([logits, logits[:100]]), np.concatenate([labels, labels[:100]])
    order = np.random.default_rng(3).permutation(len(labels_twice))
    first = build(name, settings).fit(twice, labels_twice, seed=0)
    second = build(name, settings).fit(twice[order], labels_twice[order], seed=0)
    for key, tensor in first.tensors.items():
        np.testing.assert_allclose(second.tensors[key], tensor, rtol=1e-12, atol=1e-12)


@every_member
def test_the_names_of_classes_do_not_matter(name: str, settings: Settings) -> None:
    """The probabilities agree up to what an iteration leaves: 1e-5 in log-probability."""
    logits, labels = rows()
    order = np.array([2, 0, 3, 1])
    calibrator, new_logits = build(name, settings), rows(200, seed=1)[0]
    plain = calibrator.fit(logits, labels, seed=0).log_probabilities(new_logits)
    renamed = calibrator.fit(logits[:, order], np.argsort(order)[labels], seed=0).log_probabilities(
        new_logits[:, order]
    )
    np.testing.assert_allclose(renamed, plain[:, order], atol=1e-5)


@every_member
def test_the_seed_decides_and_nothing_else_does(name: str, settings: Settings) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    first, second = (build(name, settings).fit(*rows(), seed=5) for _ in range(2))
    assert all(np.array_equal(first.tensors[key], second.tensors[key]) for key in first.tensors)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]


@every_member
def test_input_is_only_read_and_its_number_format_does_not_matter(name: str, settings: Settings) -> None:
    logits, labels = rows()  # cannot be written to
    float32_logits: Any = logits.astype(np.float32)
    calibrator = build(name, settings)
    from_float32 = calibrator.fit(float32_logits, labels.astype(np.int32), seed=0)
    from_float64 = calibrator.fit(np.asfortranarray(float32_logits.astype(np.float64)), labels, seed=0)
    expected = from_float64.log_probabilities(float32_logits.astype(np.float64))
    assert np.array_equal(from_float32.log_probabilities(float32_logits), expected)
    assert np.array_equal(from_float32.log_probabilities(np.asfortranarray(float32_logits)), expected)


@every_member
def test_planted_over_confidence_is_lowered_on_rows_that_were_not_fitted(
    name: str, settings: Settings
) -> None:
    fitted = build(name, settings).fit(*rows(3_000), seed=0)
    logits, labels = rows(6_000, seed=1)
    if not build(name, settings).changes_probabilities:
        assert np.exp(fitted.log_probabilities(logits)) == pytest.approx(softmax(logits), abs=1e-12)
        return
    before = expected_calibration_error(softmax(logits), labels)
    after = expected_calibration_error(np.exp(fitted.log_probabilities(logits)), labels)
    assert before > 0.1
    assert after < before / 3
    assert negative_log_likelihood(fitted.log_probabilities(logits), labels) < negative_log_likelihood(
        logits, labels
    )


@every_member
@each_case("factor", [0.3, 1.0, 4.0])
@each_case("num_classes", [2, 6])
def test_on_its_own_rows_the_nll_is_never_above_the_network_s(
    name: str, settings: Settings, num_classes: int, factor: float
) -> None:
    if not build(name, settings).never_raises_nll(num_classes):
        pytest.skip("never_raises_nll is false: it does not contain the identity, or is fitted to another loss")
    for num_rows, without_errors in ((12, False), (400, False), (300, True)):
        logits, labels = rows(num_rows, num_classes)
        logits = factor * logits / OVERCONFIDENCE
        labels = logits.argmax(axis=1) if without_errors else labels
        fitted = build(name, settings).fit(logits, labels, seed=0)
        after = negative_log_likelihood(fitted.log_probabilities(logits), labels)
        assert after <= negative_log_likelihood(logits, labels) + 1e-12


@every_member
@each_case("case", ["told apart", "useless", "constant", "without a class", "few rows"])
def test_degenerate_rows_give_finite_numbers(name: str, settings: Settings, case: str) -> None:
    logits, labels = rows()
    if case == "told apart":
        labels = logits.argmax(axis=1)
    elif case == "useless":
        labels = logits.argmin(axis=1)
    elif case == "constant":
        logits = np.full(logits.shape, 3.0)
    elif case == "without a class":
        labels = np.minimum(labels, 2)
    else:
        logits, labels = logits[:8], labels[:8]
    fitted = build(name, settings).fit(logits, labels, seed=0)
    assert all(np.isfinite(tensor).all() for tensor in fitted.tensors.values())
    for rows_to_calibrate in (logits, rows(50, seed=1)[0]):
        log_probabilities = fitted.log_probabilities(rows_to_calibrate)
        assert np.isfinite(log_probabilities).all()
        assert np.exp(log_probabilities).sum(axis=1) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.slow
@every_member
def test_a_thousand_classes_work(name: str, settings: Settings) -> None:
    logits, labels = rows(60, 1_000)
    log_probabilities = build(name, settings).fit(logits, labels, seed=0).log_probabilities(logits)
    assert np.isfinite(log_probabilities).all()
    assert np.exp(log_probabilities).sum(axis=1) == pytest.approx(1.0, abs=1e-12)


def with_value(logits: Floats, row: int, value: float) -> Floats:
    changed = logits.copy()
    changed[row, 1] = value
    return changed


LOGITS, LABELS = rows(20, 3)
BAD_ROWS = {
    "nan": (with_value(LOGITS, 7, np.nan), LABELS, "row 7 of the logits .* must be finite"),
    "infinite": (with_value(LOGITS, 7, -np.inf), LABELS, "row 7 of the logits .* must be finite"),
    "too large": (with_value(LOGITS, 7, 1e200), LABELS, "row 7 of the logits .* at most 1e\\+100"),
    "label above": (
        LOGITS,
        np.where(np.arange(20) == 4, 3, LABELS),
        r"row 4 has label 3; it must lie in \[0, 3\)",
    ),
    "label below": (LOGITS, np.where(np.arange(20) == 4, -1, LABELS), r"row 4 has label -1"),
    "one class": (LOGITS, np.ones(20, dtype=int), "all 20 labels are 1; .* at least two classes"),
    "one row": (LOGITS[:1], LABELS[:1], "all 1 labels are"),
    "empty": (LOGITS[:0], LABELS[:0], "N >= 1"),
    "one column": (LOGITS[:, :1], LABELS * 0, "C >= 2"),
    "flat": (LOGITS.ravel(), LABELS, r"must be \(N, C\)"),
    "lengths": (LOGITS, LABELS[:-1], r"labels have shape \(19,\); it must be \(20,\)"),
    "fractions": (LOGITS, LABELS.astype(float), "labels are float64; they must be integers"),
    "probabilities": (softmax(LOGITS), LABELS, "these are probabilities"),
}


@every_member
@each_case("case", BAD_ROWS)
def test_what_cannot_be_fitted_to_is_refused(name: str, settings: Settings, case: str) -> None:
    logits, labels, message = BAD_ROWS[case]
    with pytest.raises(ValueError, match=message):
        build(name, settings).fit(logits, labels, seed=0)


@every_member
def test_what_cannot_be_calibrated_is_refused(name: str, settings: Settings) -> None:
    fitted = build(name, settings).fit(LOGITS, LABELS, seed=0)
    with pytest.raises(ValueError, match=r"row 7 of the logits .* must be finite"):
        fitted.log_probabilities(with_value(LOGITS, 7, np.nan))
    with pytest.raises(ValueError, match="N >= 1"):
        fitted.log_probabilities(LOGITS[:0])
    with pytest.raises(ValueError, match=r"must be \(N, C\)"):
        fitted.log_probabilities(LOGITS[0])
    with pytest.raises(ValueError, match="logits have 2 columns; the calibrator was fitted to 3"):
        fitted.log_probabilities(LOGITS[:, :2])
