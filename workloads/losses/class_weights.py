"""Weights of classes in a loss, against imbalance."""

from collections.abc import Sequence
from math import isfinite
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

ClassWeight = Literal["none", "balanced"] | tuple[float, ...]
"""`balanced` weighs class k by N / (K N_k), as scikit-learn does; a list gives the weight of each class."""


def check_class_weight(weight: ClassWeight) -> None:
    """Raises `ValueError` for a weight that is negative or infinite, and if all are 0."""
    if isinstance(weight, tuple) and not (any(weight) and all(value >= 0 and isfinite(value) for value in weight)):
        raise ValueError(f"class_weight is {list(weight)}; it must be balanced, or one number of 0 or more per class, not all 0")


def check_fits_classes(weight: ClassWeight, classes: Sequence[str]) -> None:
    """Raises `ValueError` for a list that has not one weight for each class of the data."""
    if isinstance(weight, tuple) and len(weight) != len(classes):
        names = ", ".join(classes[:8]) + ", ..." * (len(classes) > 8)
        raise ValueError(f"objective.class_weight has {len(weight)} weights; the data has {len(classes)} classes: {names}")


def row_weights(weight: ClassWeight, labels: Tensor, class_counts: Tensor) -> Tensor | None:
    """Returns the weight of each row, (B,) float32, for labels (B,); None if all rows weigh the same.

    class_counts: (K,) int64, the number of training rows of each class. The mean of balanced weights over all training rows
    is 1, so the learning rate keeps its meaning. Weights do not depend on the batch, so several workers compute the loss of one.
    """
    if weight == "none":
        return None
    if isinstance(weight, tuple):
        return torch.tensor(weight, device=labels.device)[labels]
    num_present = (class_counts > 0).sum()
    return (class_counts.sum() / (num_present * class_counts.clamp(min=1)))[labels]


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, *, label_smoothing: float = 0.0) -> Tensor:
    """Returns the mean over the batch of cross-entropy times the weight of each row, (B,); None: all rows weigh 1."""
    if weights is None:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    losses = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    return (losses * weights).mean()


REFUSED_BY_CALIBRATION = (
    "does not go with this objective, whose term pulls predicted probabilities to the frequencies in the data, away from which "
    "class_weight moves them; leave it out, or use sampler: weighted"
)
"""Why objectives with a term of calibration take no weights of classes."""
