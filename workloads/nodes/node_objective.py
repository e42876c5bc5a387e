"""What is minimised over labelled nodes: the protocol, and class weights that its members share."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class NodeObjective(Protocol):
    """A frozen dataclass in `workloads/nodes/objectives`."""

    def contributions(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of logits (n, 2) and labels (n,), 1 = minority: each node's part (n,) of the loss, which is their sum."""
        ...


def weighted_entropies(logits: Tensor, labels: Tensor, *, ratio: float) -> Tensor:
    """Parts of the cross-entropy in which a minority node counts `ratio` times as much as another; the mean over weights."""
    weights = torch.where(labels == 1, 1.0, 1 / ratio).to(logits.dtype)
    return weights * functional.cross_entropy(logits, labels, reduction="none") / weights.sum()


def check_ratio(ratio: float) -> None:
    if not ratio > 0:
        raise ValueError(f"ratio is {ratio}; it must be above 0")
