"""Options of a score that are chosen on validation rows."""

import numpy as np
import pytest

from pruneyard.testing.sample_evidence import evidence_of_logits, random_evidence, select_rows
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.score_choice import candidates, choose, table_of
from pruneyard.workloads.calibrate.scores.ash import ASH
from pruneyard.workloads.calibrate.scores.energy import Energy
from pruneyard.workloads.calibrate.scores.knn import KNN
from pruneyard.workloads.calibrate.scores.mahalanobis import Mahalanobis
from pruneyard.workloads.calibrate.scores.msp import MSP
from pruneyard.workloads.calibrate.scores.odin import ODIN
from pruneyard.workloads.metrics.detection import auroc


def test_the_setting_with_the_largest_area_is_chosen_and_all_areas_are_reported() -> None:
    """Unknown rows have the larger largest logit, all that a low temperature sees, and the smaller ones otherwise."""
    known = evidence_of_logits(np.tile([4.0, 1.0, 1.0], (5, 1)))  # logsumexp 4.095
    unknown = evidence_of_logits(np.tile([4.05, -9.0, -9.0], (5, 1)))
    given = [Energy(temperature=temperature) for temperature in (0.01, 1.0, 100.0)]
    choice = choose(given, train=None, val_known=known, val_unknown=unknown, seed=0)
    areas = [auroc(*(score.fit(None, seed=0).score(part) for part in (known, unknown))) for score in given]
    assert areas == [0.0, 1.0, 1.0]
    assert choice.aurocs == tuple(areas)
    assert choice.score == given[1]  # the first of equal ones
    assert choice.table == {"name": "energy", "temperature": 1.0}
    assert choice.tables == tuple({"name": "energy", "temperature": t} for t in (0.01, 1.0, 100.0))
    assert (choice.fitted.score(known) == given[1].fit(None, seed=0).score(known)).all()


def test_known_rows_are_scored_at_the_setting_they_are_compared_at() -> None:
    """Published code scored known rows once, at the first setting. Here that would be seen: scales differ by setting."""
    train, known, unknown = random_evidence(60), random_evidence(30, seed=1), random_evidence(30, seed=2)
    given: list[Score] = [KNN(k=1), Mahalanobis(), MSP(), Energy()]
    choice = choose(given, train=train, val_known=known, val_unknown=unknown, seed=0)
    for score, area in zip(given, choice.aurocs, strict=True):
        fitted = score.fit(train, seed=0)
        assert area == auroc(fitted.score(known), fitted.score(unknown))
        assert 0.2 < area < 0.8  # both are known rows; scores of two settings would not even overlap


def test_candidates_are_the_whole_grid_and_the_setting_given_comes_first() -> None:
    tried = candidates(ODIN(temperature=7.0, eps=0.5))
    assert tried[0] == ODIN(temperature=7.0, eps=0.5)
    assert len(tried) == 1 + 4 * 2
    assert len(candidates(ODIN())) == 4 * 2
    assert candidates(MSP()) == (MSP(),)
    assert all(isinstance(score, ASH) and score.variant == "s" for score in candidates(ASH(variant="s")))
    assert table_of(ASH()) == {"name": "ash", "variant": "b", "prune": 0.9}


def test_no_candidates_and_candidates_that_cannot_be_fitted_are_refused() -> None:
    train = random_evidence(60)
    part = select_rows(train, np.arange(20))
    with pytest.raises(ValueError, match="there are no candidates"):
        choose([], train=train, val_known=part, val_unknown=part, seed=0)
    with pytest.raises(
        ValueError, match="knn needs features of the training rows; available: nothing"
    ):
        choose([KNN()], train=None, val_known=part, val_unknown=part, seed=0)
    with pytest.raises(ValueError, match="k is 61; it must be at most 60"):
        choose([KNN(k=61), KNN()], train=train, val_known=part, val_unknown=part, seed=0)


def test_a_candidate_that_needs_more_training_rows_is_left_out_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    train, known, unknown = random_evidence(60), random_evidence(30, seed=1), random_evidence(30, seed=2)
    choice = choose(candidates(KNN(k=5)), train=train, val_known=known, val_unknown=unknown, seed=0)
    assert [table["k"] for table in choice.tables] == [5, 50]
    assert len(choice.aurocs) == 2
    assert (
        "skipping candidate {'name': 'knn', 'k': 100, 'train_fraction': 1.0}: k is 100; it must be at most 60" in caplog.text
    )
