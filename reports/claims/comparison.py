"""How a run's set-up differs from that of a paper's number: read from the run's spec, said in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pruneyard.reports.claims.claim import KEYS_OF_KIND, NEARLY, PLAIN, Augment, Claim

Spec = Mapping[str, Any]
"""A run's spec by dotted keys, as `cells.flat_spec` gives it."""


def differences(
    claim: Claim, spec: Spec, *, published_rows: int, num_bins: int, num_classes: int | None = None
) -> list[str]:
    """What keeps a run from being a repetition of the claim, the weighty things first; empty where nothing is known to.

    `published_rows` are the training rows that the publisher of the data gives, `num_classes` its classes where they are
    known, `num_bins` the bins of our ECE.
    A fact of the paper that is not known is a difference too: nothing is called comparable on silence.
    """
    rows = train_rows(spec, published_rows)
    counted = {"budget.epochs": _epochs(spec, rows), "evaluation.epochs": _evaluation_epochs(spec, num_classes)}
    names = KEYS_OF_KIND[claim.kind]
    found = _differs("training rows", rows, claim.train_rows)
    for key, here in counted.items():
        if key in names:
            found += _differs(names[key], here, claim.recipe.get(key))
    found += [
        *_augmentation(claim, spec),
        *(f"{name}: {there} there" for name, there in claim.other.items()),
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
    return found + ([f"not known of theirs: {', '.join(missing)}"] if missing else [])


def train_rows(spec: Spec, published_rows: int) -> int:
    """Rows that a run trains on: those published or fewer, less what is held out for val and calib."""
    usable = min(published_rows, spec.get("data.max_train") or published_rows)
    held = (spec.get("data.val_fraction") or 0.0, spec.get("data.calib_fraction") or 0.0)
    return usable - sum(round(share * usable) for share in held)


def _epochs(spec: Spec, rows: int) -> float | None:
    """The epochs of a run; those that its steps amount to where it counts steps."""
    epochs, steps, batch = (spec.get(f"budget.{key}") for key in ("epochs", "steps", "batch_size"))
    if epochs is not None or not steps or not batch:
        return epochs
    return float(steps) / max(1, rows // int(batch))


def _evaluation_epochs(spec: Spec, num_classes: int | None) -> float | None:
    """Those of a network that judges a set; fewer than asked for where `max_steps` ends them."""
    epochs, most, batch = (spec.get(f"evaluation.{key}") for key in ("epochs", "max_steps", "batch_size"))
    ipc = spec.get("method.ipc")
    if not epochs or not most or not batch or not ipc or num_classes is None:
        return epochs
    images = ipc * num_classes * (spec.get("method.factor") or 1) ** 2
    return float(max(1, min(epochs, most // -(-images // batch))))


def _augmentation(claim: Claim, spec: Spec) -> list[str]:
    if not claim.augment:
        return []
    table = {key: spec[f"augment.{key}"] for key in Augment.__dataclass_fields__ if f"augment.{key}" in spec}
    here, there = str(Augment(**table)), str(claim.augment)
    return [] if here == there else [f"augmentation: {here} here, {there} there"]


def _differs(name: str, here: Any, there: Any) -> list[str]:
    if there is None or agree(here, there):
        return []
    return [f"{name}: {_shown(here)} here, {_shown(there)} there"]


def agree(here: Any, there: Any) -> bool:
    """Whether two values of a recipe are the same, numbers to within `NEARLY`."""
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
    """The same for a distilled set: how it was made, and how the networks were trained that judged it."""
    if claim.train_rows is None:
        yield "training rows"
    for key in ("epochs", "batch_size", "augment", "lr", "milestones"):
        if f"evaluation.{key}" not in claim.recipe:
            yield KEYS_OF_KIND["distill"][f"evaluation.{key}"]
    if "method.iterations" in spec and "iterations" not in claim.settings:
        yield "iterations"


def _not_known(claim: Claim) -> Iterator[str]:
    """Facts without which no number is comparable, as far as the claim lacks them."""
    if claim.train_rows is None:
        yield "training rows"
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
        yield "rate schedule"
    elif claim.recipe["schedule.name"] == "step" and "schedule.milestones" not in claim.recipe:
        yield "milestones of the rate schedule"
