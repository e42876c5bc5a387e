"""Separates the contribution of a set's images to accuracy from that of augmentation and soft labels.

Reference: DD-Ranking, arXiv:2505.13300, for `hlr` and `ior`. The reference seems to mix fractions and percents; here all are
fractions. This file does not import torch, so that the metrics can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruneyard.workloads.data.synthetic_set import SyntheticSet
    from pruneyard.workloads.distill.evaluate import Evaluation

SEPARATION_METRICS = {
    "hlr": "accuracy of the whole training set minus that of this set, both with hard labels, as a fraction; smaller is better",
    "ior": "accuracy of this set minus that of as many random images, both with hard labels, as a fraction; larger is better",
}

Measure = Callable[["SyntheticSet", "Evaluation"], Mapping[str, float]]
"""Returns test metrics of networks that are trained on a set by a recipe, as means over networks."""


def measure_separation(
    measure: Measure,
    evaluation: Evaluation,
    *,
    baseline: Mapping[str, float],
    synthetic: SyntheticSet,
    random: SyntheticSet,
    whole: SyntheticSet,
) -> dict[tuple[str, str], float]:
    """Returns metrics by (split, name); `baseline` are those of the unchanged set and recipe.

    Networks are trained on the set without augmentation (`test@no_augment`), with hard labels only if it has soft labels
    (`test@hard_labels`), on the random set with and without augmentation, and on the whole set. The latter two have hard
    labels, so `hlr` and `ior` always compare hard labels with hard labels, even for a set with soft labels; this is our choice.
    If a teacher labels views, the set counts as having soft labels, and networks are also trained on the random set with labels
    by the teacher (`test@random_views`).
    """
    by_views = evaluation.labels == "views"
    hard_labels = replace(evaluation, labels="stored", temperature=1.0)
    on_real_images = replace(hard_labels, learned_rate=False)  # a learned rate belongs to the images it was learned with
    # A set without rows of soft labels has hard labels.
    hard = replace(synthetic, soft_labels=synthetic.soft_labels[:0])
    results: dict[str, Mapping[str, float]] = {
        "no_augment": measure(synthetic, _without_augmentation(evaluation)),
        "random": measure(random, on_real_images),
        "random_no_augment": measure(random, _without_augmentation(on_real_images)),
        "whole": measure(whole, on_real_images),
    }
    has_soft = len(synthetic.soft_labels) > 0 or by_views
    if has_soft:
        results["hard_labels"] = measure(hard, hard_labels)
    if by_views:
        results["random_views"] = measure(random, evaluation)
    named = {(f"test@{part}", name): value for part, metrics in results.items() for name, value in metrics.items()}
    accuracy = (results["hard_labels"] if has_soft else baseline)["accuracy"]
    named["test", "hlr"] = results["whole"]["accuracy"] - accuracy
    named["test", "ior"] = accuracy - results["random"]["accuracy"]
    if not has_soft:
        named["test@no_augment", "ior"] = results["no_augment"]["accuracy"] - results["random_no_augment"]["accuracy"]
    return named


def _without_augmentation(evaluation: Evaluation) -> Evaluation:
    """Returns the same recipe without augmentation."""
    # `always` may stay: it only concerns transforms that `augment` names.
    return replace(evaluation, augment="", cutmix=0.0)
