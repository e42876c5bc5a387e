"""Rules that every OOD score must keep. Members are found by their files."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from pruneyard.testing.cases import each_case
from pruneyard.testing.evidences import drawn, rows_of, seen
from pruneyard.testing.plug_in import build as build_plugin
from pruneyard.workloads.calibrate.evidence import FEATURES, LABELS, LOGITS, NETWORK, Evidence
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.score_choice import candidates
from pruneyard.workloads.plugins import names

FAMILY = "calibrate.scores"

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def build(name: str, **fields: Any) -> Score:
    built: Score = build_plugin(FAMILY, name, **fields)
    return built


def bare(evidence: Evidence, wanted: frozenset[str]) -> Evidence:
    """With nothing but what is wanted, and the logits."""
    return dataclasses.replace(
        evidence,
        labels=evidence.labels if LABELS in wanted else None,
        last_layer=evidence.last_layer if FEATURES in wanted else None,
        rerun=evidence.rerun if NETWORK in wanted else None,
    )


def test_asks_for_nothing_that_evidence_cannot_hold(name: str) -> None:
    score = build(name)
    assert score.needs
    assert score.needs <= {LOGITS, FEATURES, NETWORK}  # the labels of rows that are scored are not known
    assert score.learns_from <= {LOGITS, FEATURES, LABELS}


@each_case("num_extra", [0, 2])
def test_scores_are_finite_float64_one_for_each_row(name: str, num_extra: int) -> None:
    train, rows = seen(30, num_extra=num_extra), seen(17, num_extra=num_extra, seed=1)
    scores = build(name).fit(train, seed=0).score(rows)
    assert scores.shape == (17,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 1


def test_what_it_says_it_needs_is_enough(name: str) -> None:
    score, train, rows = build(name), seen(30), seen(17, seed=1)
    learned_from = bare(train, score.learns_from) if score.learns_from else None
    whole, part = (
        score.fit(t, seed=0).score(r) for t, r in ((train, rows), (learned_from, bare(rows, score.needs)))
    )
    assert (whole == part).all()
    score.check(train=score.learns_from, rows=score.needs)


def test_all_that_it_needs_is_asked_for_before_anything_is_computed(name: str) -> None:
    score, train, rows = build(name), seen(30), seen(17, seed=1)
    for missing in score.needs - {LOGITS}:
        held = rows.holds - {missing}
        with pytest.raises(ValueError, match=f"{name} needs {missing} of the rows it scores"):
            score.check(train=train.holds, rows=held)
        with pytest.raises(ValueError, match=f"{name} needs {missing} of the rows it scores"):
            score.fit(train, seed=0).score(bare(rows, held))
    for missing in score.learns_from - {LOGITS}:
        held = train.holds - {missing}
        with pytest.raises(ValueError, match=f"{name} needs {missing} of the training rows"):
            score.check(train=held, rows=rows.holds)
        with pytest.raises(ValueError, match=f"{name} needs {missing} of the training rows"):
            score.fit(bare(train, held), seed=0)


def test_the_score_of_a_row_does_not_depend_on_other_rows(name: str) -> None:
    train = drawn(60)
    fitted = build(name).fit(train, seed=0)
    if NETWORK in fitted.needs:
        pytest.skip("runs whole splits; its own test compares single rows")
    rows = drawn(9, seed=1)
    order = np.array([5, 2, 8, 0])
    assert fitted.score(rows_of(rows, order)) == pytest.approx(fitted.score(rows)[order], rel=1e-9, abs=1e-12)


def test_the_order_of_training_rows_changes_nothing_but_rounding(name: str) -> None:
    score = build(name)
    if not score.learns_from:
        pytest.skip("learns nothing")
    train, rows = drawn(60), drawn(9, seed=1)
    mixed = rows_of(train, np.random.default_rng(0).permutation(60))
    first, second = (score.fit(part, seed=0).score(rows) for part in (train, mixed))
    assert first == pytest.approx(second, rel=1e-7, abs=1e-9)


def test_equal_seeds_give_equal_scores_and_nothing_given_is_written_to(name: str) -> None:
    train, rows = seen(30), seen(17, seed=1)
    before = [np.array(array) for part in (train, rows) for array in (part.logits, part.features, part.labels)]
    first, again = (build(name).fit(train, seed=4).score(rows) for _ in range(2))
    assert (first == again).all()
    after = [array for part in (train, rows) for array in (part.logits, part.features, part.labels)]
    assert all((old == new).all() for old, new in zip(before, after, strict=True))


def test_rows_far_from_all_classes_score_below_known_ones(name: str) -> None:
    """Known rows have the features of their class. Unknown ones are dim: a fifth of the activations, spread over all units."""
    train, known = drawn(300), drawn(60, seed=1)
    if NETWORK in build(name).needs:
        pytest.skip("needs a trained network; see its test on digits")
    layer = known.last_layer
    assert layer is not None
    dim = np.random.default_rng(3).uniform(0, 0.6, size=(60, layer.features.shape[1]))
    unknown = Evidence(
        logits=dim @ layer.weight.T + layer.bias, last_layer=dataclasses.replace(layer, features=dim)
    )
    fitted = build(name).fit(train, seed=0)
    assert np.median(fitted.score(unknown)) < np.median(fitted.score(known))


def test_candidates_are_settings_of_its_own_and_begin_with_the_one_given(name: str) -> None:
    score = build(name)
    tried = candidates(score)
    assert tried[0] == score
    assert len(set(tried)) == len(tried)
    assert all(type(each) is type(score) for each in tried)
    assert set(score.grid) <= {field.name for field in dataclasses.fields(score)}  # type: ignore[arg-type]


def test_evidence_of_another_network_is_refused(name: str) -> None:
    score = build(name)
    if not score.learns_from:
        pytest.skip("learns nothing")
    with pytest.raises(ValueError, match=rf"rows have 7 features, but {name} was fitted to 6"):
        score.fit(drawn(60), seed=0).score(drawn(9, width=7))
