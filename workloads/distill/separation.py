"""How much of a set's worth lies in its images, and how much in the augmentation and the labels that it is trained with.

Reference: DD-Ranking, arXiv:2505.13300, for `hlr` and `ior`. There fractions and percents seem to be mixed; here all are
fractions. This file knows no torch, so that what is measured can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruneyard.workloads.data.synthetic_set import SyntheticSet
    from pruneyard.workloads.distill.evaluate import Evaluation

SEPARATION_METRICS = {
    "hlr": "accuracy of the whole training set less that of this one, both with hard labels, as a fraction; smaller is better",
    "ior": "accuracy of this set less that of as many random images, both with hard labels, as a fraction; larger is better",
}

Measure = Callable[["SyntheticSet", "Evaluation"], Mapping[str, float]]
"""Metrics on the test split of networks that are trained on a set by a recipe, means over networks."""


def separated(
    measure: Measure,
    evaluation: Evaluation,
    *,
    found: Mapping[str, float],
    synthetic: SyntheticSet,
    random: SyntheticSet,
    whole: SyntheticSet,
) -> dict[tuple[str, str], float]:
    """Metrics by split and name, `found` being those of the set as it is by the recipe as it is.

    Networks are trained on the set without augmentation (`test@no_augment`), with hard labels alone where it has soft ones
    (`test@hard_labels`), on the random set with and without augmentation, and on the whole set; these have hard labels, so
    `hlr` and `ior` compare hard labels with hard labels, also where the set has soft ones: that is ours. Where a teacher labels
    views, it counts as soft labels, and networks are also trained on the random set with its labels (`test@random_views`).
    """
    by_views = evaluation.labels == "views"
    hard_labels = replace(evaluation, labels="stored", temperature=1.0)
    hard = replace(synthetic, soft_labels=synthetic.soft_labels[:0])
    of: dict[str, Mapping[str, float]] = {
        "no_augment": measure(synthetic, _plain(evaluation)),
        "random": measure(random, hard_labels),
        "random_no_augment": measure(random, _plain(hard_labels)),
        "whole": measure(whole, hard_labels),
    }
    has_soft = len(synthetic.soft_labels) > 0 or by_views
    if has_soft:
        of["hard_labels"] = measure(hard, hard_labels)
    if by_views:
        of["random_views"] = measure(random, evaluation)
    named = {(f"test@{part}", name): value for part, metrics in of.items() for name, value in metrics.items()}
    accuracy = (of["hard_labels"] if has_soft else found)["accuracy"]
    named["test", "hlr"] = of["whole"]["accuracy"] - accuracy
    named["test", "ior"] = accuracy - of["random"]["accuracy"]
    if not has_soft:
        named["test@no_augment", "ior"] = of["no_augment"]["accuracy"] - of["random_no_augment"]["accuracy"]
    return named


def _plain(evaluation: Evaluation) -> Evaluation:
    """The same recipe without augmentation."""
    return replace(evaluation, augment="", cutmix=0.0)
