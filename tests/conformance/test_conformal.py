"""Rules that every conformal rule must keep. Members are found by their files."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from pruneyard.testing.cases import each_case
from pruneyard.testing.plug_in import build as build_plugin
from pruneyard.workloads.calibrate.prediction_sets import ConformalRule
from pruneyard.workloads.metrics.classification import softmax
from pruneyard.workloads.plugins import names

FAMILY = "calibrate.conformal"

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def build(name: str, **fields: Any) -> ConformalRule:
    rule: ConformalRule = build_plugin(FAMILY, name, **fields)
    return rule


def rows(num_rows: int, *, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_rows, 4))
    return softmax(logits), (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


@each_case("by_class", [False, True])
def test_sets_are_booleans_of_every_row_and_class(name: str, by_class: bool) -> None:
    fitted = build(name, by_class=by_class, alpha=0.2).fit(*rows(200), seed=0)
    sets = fitted.predict(rows(30, seed=1)[0])
    assert sets.shape == (30, 4)
    assert sets.dtype == np.bool_
    assert 0 < sets.mean() < 1
    assert fitted.thresholds.shape == fitted.num_rows.shape == (4,)
    assert (len(set(fitted.thresholds)) == 1) == (not by_class)
    assert all(np.isfinite(value) for value in fitted.numbers.values())


def test_the_seed_decides_and_nothing_given_is_written_to(name: str) -> None:
    (probabilities, labels), (new, _) = rows(100), rows(30, seed=1)
    before = [array.copy() for array in (probabilities, labels, new)]
    first, second = (build(name).fit(probabilities, labels, seed=3) for _ in range(2))
    assert (first.thresholds == second.thresholds).all()
    assert (first.predict(new) == second.predict(new)).all()
    assert (first.predict(new) == first.predict(new)).all()
    assert all((old == array).all() for old, array in zip(before, (probabilities, labels, new), strict=True))


def test_asking_for_more_coverage_never_takes_a_class_away(name: str) -> None:
    (probabilities, labels), (new, _) = rows(300), rows(100, seed=1)
    if not build(name).is_nested:
        pytest.skip("is_nested is false: it may choose another rule for another alpha")
    small, large = (build(name, alpha=alpha).fit(probabilities, labels, seed=0).predict(new) for alpha in (0.3, 0.05))
    assert (small <= large).all()
    assert small.sum() < large.sum()


def test_a_set_holds_a_class_only_with_all_that_are_more_probable(name: str) -> None:
    """This holds where one threshold serves all classes."""
    new, _ = rows(200, seed=1)
    sets = build(name).fit(*rows(300), seed=0).predict(new)
    by_probability = np.take_along_axis(sets, np.argsort(-new, axis=1), axis=1)
    assert (by_probability[:, 1:] <= by_probability[:, :-1]).all()


def test_permuted_classes_give_permuted_sets(name: str) -> None:
    (probabilities, labels), (new, _) = rows(300), rows(100, seed=1)
    order = np.array([2, 0, 3, 1])  # the new column j is the old column order[j]
    sets = build(name).fit(probabilities, labels, seed=0).predict(new)
    permuted = build(name).fit(probabilities[:, order], np.argsort(order)[labels], seed=0).predict(new[:, order])
    assert (permuted == sets[:, order]).mean() > 0.995  # sums of another order may round to the other side


@each_case(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, 0.6], [0.5, 0.5]], [0, 1], "row 0 is .* must sum to 1"),
        ([[0.5, 0.5], [np.nan, 0.5]], [0, 1], "row 1 is .* must be finite"),
        ([[0.5, 0.5], [-0.5, 1.5]], [0, 1], "row 1 is .* must not be negative"),
        ([[0.5, 0.5], [0.5, 0.5]], [0, 2], "row 1 is 2; it must lie in"),
        ([[0.5, 0.5], [0.5, 0.5]], [0], "labels have shape"),
        (np.zeros((0, 2)), [], "probabilities have shape"),
    ],
)
def test_bad_rows_are_refused(name: str, probabilities: ArrayLike, labels: ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name).fit(probabilities, labels, seed=0)


def test_bad_rows_are_refused_at_prediction_too(name: str) -> None:
    fitted = build(name).fit(*rows(100), seed=0)
    for bad, message in (
        ([[0.5, 0.5]], "probabilities have 2 classes, but the sets were fitted to 4"),
        ([[0.5, 0.5, 0.5, 0.5]], "must sum to 1"),
        ([0.25] * 4, "probabilities have shape"),
        (0.25, "probabilities have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.predict(bad)


def test_alpha_out_of_range_is_refused(name: str) -> None:
    for alpha in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=rf"alpha is {alpha}; it must lie in \(0, 1\)"):
            build(name, alpha=alpha)
