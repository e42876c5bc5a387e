"""Rules that every OOD score must keep. Members are found by their files."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from pruneyard.testing.cases import each_case
from pruneyard.testing.plug_in import build as build_plugin
from pruneyard.testing.sample_evidence import images, network, network_evidence, random_evidence, select_rows
from pruneyard.workloads.calibrate.evidence import FEATURES, LABELS, LOGITS, NETWORK, Evidence, evidence_of
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.score_choice import candidates
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.plugins import names

FAMILY = "calibrate.scores"

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def build(name: str, **fields: Any) -> Score:
    built: Score = build_plugin(FAMILY, name, **fields)
    return built


def keep_only(evidence: Evidence, kept: frozenset[str]) -> Evidence:
    """Returns the evidence with its logits and what is in `kept`, and nothing else."""
    return dataclasses.replace(
        evidence,
        labels=evidence.labels if LABELS in kept else None,
        last_layer=evidence.last_layer if FEATURES in kept else None,
        rerun=evidence.rerun if NETWORK in kept else None,
    )


def test_asks_for_nothing_that_evidence_cannot_hold(name: str) -> None:
    score = build(name)
    assert score.needs
    assert score.needs <= {LOGITS, FEATURES, NETWORK}  # the labels of rows that are scored are not known
    assert score.learns_from <= {LOGITS, FEATURES, LABELS}


@each_case("num_extra", [0, 2])
def test_scores_are_finite_float64_one_for_each_row(name: str, num_extra: int) -> None:
    train, rows = network_evidence(30, num_extra=num_extra), network_evidence(17, num_extra=num_extra, seed=1)
    scores = build(name).fit(train, seed=0).score(rows)
    assert scores.shape == (17,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 1


def test_what_it_says_it_needs_is_enough(name: str) -> None:
    score, train, rows = build(name), network_evidence(30), network_evidence(17, seed=1)
    learned_from = keep_only(train, score.learns_from) if score.learns_from else None
    complete, reduced = (
        score.fit(t, seed=0).score(r) for t, r in ((train, rows), (learned_from, keep_only(rows, score.needs)))
    )
    assert (complete == reduced).all()
    score.check(train=score.learns_from, rows=score.needs)


def test_all_that_it_needs_is_asked_for_before_anything_is_computed(name: str) -> None:
    score, train, rows = build(name), network_evidence(30), network_evidence(17, seed=1)
    for missing in score.needs - {LOGITS}:
        available = rows.holds - {missing}
        with pytest.raises(ValueError, match=f"{name} needs {missing} of the rows it scores"):
            score.check(train=train.holds, rows=available)
        with pytest.raises(ValueError, match=f"{name} needs {missing} of the rows it scores"):
            score.fit(train, seed=0).score(keep_only(rows, available))
    for missing in score.learns_from - {LOGITS}:
        available = train.holds - {missing}
        with pytest.raises(ValueError, match=f"{name} needs {missing} of the training rows"):
            score.check(train=available, rows=rows.holds)
        with pytest.raises(ValueError, match=f"{name} needs {missing} of the training rows"):
            score.fit(keep_only(train, available), seed=0)


def test_the_score_of_a_row_does_not_depend_on_other_rows(name: str) -> None:
    order = np.array([5, 2, 8, 0])
    if NETWORK in build(name).needs:
        fitted = build(name).fit(network_evidence(60), seed=0)
        split = images(9, seed=1)
        chosen = Split.from_arrays(np.asarray(split.images)[order], np.asarray(split.labels)[order])
        rows, some = (evidence_of(network(), part, batch_size=7) for part in (split, chosen))
        # The network computes in float32, and other batches sum in another order.
        assert fitted.score(some) == pytest.approx(fitted.score(rows)[order], rel=1e-4, abs=1e-6)
        return
    fitted = build(name).fit(random_evidence(60), seed=0)
    rows = random_evidence(9, seed=1)
    assert fitted.score(select_rows(rows, order)) == pytest.approx(fitted.score(rows)[order], rel=1e-9, abs=1e-12)


def test_the_order_of_training_rows_changes_nothing_but_rounding(name: str) -> None:
    score = build(name)
    if not score.learns_from:
        pytest.skip("learns nothing")
    train, rows = random_evidence(60), random_evidence(9, seed=1)
    shuffled = select_rows(train, np.random.default_rng(0).permutation(60))
    first, second = (score.fit(evidence, seed=0).score(rows) for evidence in (train, shuffled))
    assert first == pytest.approx(second, rel=1e-7, abs=1e-9)


def test_equal_seeds_give_equal_scores_and_nothing_given_is_written_to(name: str) -> None:
    train, rows = network_evidence(30), network_evidence(17, seed=1)
    before = [np.array(array) for evidence in (train, rows) for array in (evidence.logits, evidence.features, evidence.labels)]
    first, second = (build(name).fit(train, seed=4).score(rows) for _ in range(2))
    assert (first == second).all()
    after = [array for evidence in (train, rows) for array in (evidence.logits, evidence.features, evidence.labels)]
    assert all((old == new).all() for old, new in zip(before, after, strict=True))


def test_rows_far_from_all_classes_score_below_known_ones(name: str) -> None:
    """Known rows have the features of their class. Unknown ones are dim: a fifth of the activations, spread over all units."""
    train, known = random_evidence(300), random_evidence(60, seed=1)
    if NETWORK in build(name).needs:
        pytest.skip("needs a trained network; see its test on digits")
    layer = known.last_layer
    assert layer is not None
    dim_features = np.random.default_rng(3).uniform(0, 0.6, size=(60, layer.features.shape[1]))
    unknown = Evidence(
        logits=dim_features @ layer.weight.T + layer.bias, last_layer=dataclasses.replace(layer, features=dim_features)
    )
    fitted = build(name).fit(train, seed=0)
    assert np.median(fitted.score(unknown)) < np.median(fitted.score(known))


def test_candidates_are_settings_of_its_own_and_begin_with_the_one_given(name: str) -> None:
    score = build(name)
    settings = candidates(score)
    assert settings[0] == score
    assert len(set(settings)) == len(settings)
    assert all(type(candidate) is type(score) for candidate in settings)
    assert set(score.grid) <= {field.name for field in dataclasses.fields(score)}  # type: ignore[arg-type]


def test_evidence_of_another_network_is_refused(name: str) -> None:
    score = build(name)
    if not score.learns_from:
        pytest.skip("learns nothing")
    with pytest.raises(ValueError, match=rf"rows have 7 features, but {name} was fitted to 6"):
        score.fit(random_evidence(60), seed=0).score(random_evidence(9, width=7))
