"""Protocol of the training objectives on labelled nodes, and the class-weighted cross-entropy that they share."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class NodeObjective(Protocol):
    """Protocol of a frozen dataclass in `workloads/nodes/objectives`."""

    def contributions(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns each node's part (n,) of the loss, which is their sum, for logits (n, 2) and labels (n,), 1 = minority."""
        ...


def weighted_entropies(logits: Tensor, labels: Tensor, *, ratio: float) -> Tensor:
    """Returns each node's part of the weighted mean cross-entropy; a minority node has `ratio` times the weight of others."""
    # `torch.where` of two Python numbers returns torch's default float32, whatever the type of the logits.
    weights = torch.where(labels == 1, 1.0, 1 / ratio).to(logits.dtype)
    return weights * functional.cross_entropy(logits, labels, reduction="none") / weights.sum()


def check_ratio(ratio: float) -> None:
    """Raises `ValueError` for a weight ratio that is not positive."""
    if not ratio > 0:
        raise ValueError(f"ratio is {ratio}; it must be above 0")
