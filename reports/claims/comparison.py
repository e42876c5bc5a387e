"""Differences between the experimental setup of a run, read from its spec, and that of a published number, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pruneyard.reports.claims.claim import KEYS_OF_KIND, NEARLY, PLAIN, Augment, Claim

Spec = Mapping[str, Any]
"""A run's spec by dotted keys, as `cells.flat_spec` gives it."""


def differences(
    claim: Claim,
    spec: Spec,
    *,
    published_rows: int,
    num_bins: int,
    num_classes: int | None = None,
    spent: tuple[float, float] | None = None,
) -> list[str]:
    """Returns the differences that prevent comparison of a run with a claim, the most important first; empty if comparable.

    `published_rows` is the number of training samples that the data set was published with, `num_classes` its number of
    classes if known, `num_bins` the number of bins of the study's ECE, `spent` the epochs that a value at an equal budget is
    from and those of the whole run: both the budget and a schedule that was made for more are differences. A fact that the
    paper does not state counts as a difference, because an unstated fact may differ.
    """
    rows = train_rows(spec, published_rows)
    counted = {"budget.epochs": _epochs(spec, rows), "evaluation.epochs": _evaluation_epochs(spec, num_classes)}
    names = KEYS_OF_KIND[claim.kind]
    found = _differs("training samples", rows, claim.train_rows)
    if spent is not None and not agree(*spent):
        unit = "iteration" if claim.kind == "distill" else "epoch"
        found.append(f"the value is from {unit} {spent[0]:g} of a run that was planned for {spent[1]:g}")
        if claim.kind == "sparse":
            counted["budget.epochs"] = spent[0]
    for key, here in counted.items():
        if key in names:
            found += _differs(names[key], here, claim.recipe.get(key))
    found += [
        *_augmentation(claim, spec),
        *(f"{name}: {there} (published)" for name, there in claim.other.items()),
        *_differs("density rule", spec.get("method.distribution"), claim.distribution or None),
    ]
    for key, there in claim.recipe.items():
        if key not in counted:
            found += _differs(names[key], spec.get(key, PLAIN.get(key)), there)
    for key, there in claim.settings.items():
        found += _differs(key, spec.get(f"method.{key}"), there)
    if claim.bins is not None:
        found += _differs("bins of ECE", num_bins, claim.bins)
    missing = list(_not_known(claim) if claim.kind == "sparse" else _not_known_of_evaluation(claim, spec))
    return found + ([f"not stated in the publication: {', '.join(missing)}"] if missing else [])


def train_rows(spec: Spec, published_rows: int) -> int:
    """Returns the number of training samples of a run: published ones up to `max_train`, minus the val and calib fractions."""
    usable = min(published_rows, spec.get("data.max_train") or published_rows)
    held = (spec.get("data.val_fraction") or 0.0, spec.get("data.calib_fraction") or 0.0)
    return usable - sum(round(share * usable) for share in held)


def _epochs(spec: Spec, rows: int) -> float | None:
    """Returns the epochs of a run; computed from its steps if the budget is in steps."""
    epochs, steps, batch = (spec.get(f"budget.{key}") for key in ("epochs", "steps", "batch_size"))
    if epochs is not None or not steps or not batch:
        return epochs
    return float(steps) / max(1, rows // int(batch))


def _evaluation_epochs(spec: Spec, num_classes: int | None) -> float | None:
    """Returns the epochs of an evaluation network; fewer than requested if `max_steps` limits them."""
    epochs, most, batch = (spec.get(f"evaluation.{key}") for key in ("epochs", "max_steps", "batch_size"))
    ipc = spec.get("method.ipc")
    if not epochs or not most or not batch or not ipc or num_classes is None:
        return epochs
    # As `Evaluation.for_images` of workloads computes it, which reports cannot import.
    images = ipc * num_classes * (spec.get("method.factor") or 1) ** 2
    return float(max(1, min(epochs, most // -(-images // batch))))


def _augmentation(claim: Claim, spec: Spec) -> list[str]:
    if not claim.augment:
        return []
    # Keys that the spec lacks have the defaults of `Augment`: none of it.
    table = {key: spec[f"augment.{key}"] for key in Augment.__dataclass_fields__ if f"augment.{key}" in spec}
    here, there = str(Augment(**table)), str(claim.augment)
    return [] if here == there else [f"augmentation: {here} (this study), {there} (published)"]


def _differs(name: str, here: Any, there: Any) -> list[str]:
    if there is None or agree(here, there):
        return []
    return [f"{name}: {_shown(here)} (this study), {_shown(there)} (published)"]


def agree(here: Any, there: Any) -> bool:
    """Returns whether two values of a recipe are equal, numbers within the relative tolerance `NEARLY`."""
    # Before numbers, since a bool is an int: True would agree with 1.
    if isinstance(here, bool) or isinstance(there, bool):
        return here is there
    if isinstance(here, int | float) and isinstance(there, int | float):
        return math.isclose(here, there, rel_tol=NEARLY)
    if _is_list(here) and _is_list(there):
        return len(here) == len(there) and all(agree(*pair) for pair in zip(here, there, strict=True))
    return bool(here == there)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_list(value):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    if isinstance(value, int | float):
        return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1000 else f"{value:g}"
    return str(value) or "none"


def _not_known_of_evaluation(claim: Claim, spec: Spec) -> Iterator[str]:
    """Yields facts about distillation and evaluation networks that a comparison needs and the claim lacks."""
    if claim.train_rows is None:
        yield "training samples"
    for key in ("epochs", "batch_size", "augment", "lr", "milestones"):
        if f"evaluation.{key}" not in claim.recipe:
            yield KEYS_OF_KIND["distill"][f"evaluation.{key}"]
    if "method.iterations" in spec and "iterations" not in claim.settings:
        yield "iterations"


def _not_known(claim: Claim) -> Iterator[str]:
    """Yields facts about sparse training that a comparison needs and the claim lacks."""
    if claim.train_rows is None:
        yield "training samples"
    if "budget.epochs" not in claim.recipe:
        yield "epochs"
    if "budget.batch_size" not in claim.recipe:
        yield "batch size"
    if not claim.augment:
        yield "augmentation"
    ranks_globally = "global" in (claim.settings.get("scope"), claim.settings.get("ranking"))
    if not (claim.distribution or claim.method == "dense" or ranks_globally):
        yield "density rule"
    if "optimizer.lr" not in claim.recipe:
        yield "learning rate"
    if "schedule.name" not in claim.recipe:
        yield "learning rate schedule"
    elif claim.recipe["schedule.name"] == "step" and "schedule.milestones" not in claim.recipe:
        yield "milestones of the learning rate schedule"
