"""Objectives that are a function of a batch's logits, and what several of them are made of.

Logits below float32 are taken to float32 first, whatever the precision of the network. Nothing waits for the device.
Dimensions: B batch, K classes.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors

SMALLEST = 1e-12  # of a base that is raised to a power: below 1, its derivative at 0 is infinite


ROOT_FLOOR = 1e-10  # added under a square root, for its derivative at 0


class LogitsObjective(StatelessObjective, ABC):
    """An objective that asks the network once and remembers nothing."""

    @abstractmethod
    def loss_of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A scalar, of logits (B, K), float32 or float64, and labels (B,)."""

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Mean over the batch, in nats."""
        logits = to_float32_or_wider(inputs.network(inputs.images))
        return self.loss_of_logits(logits, inputs.labels), inputs.memory


def to_float32_or_wider(logits: Tensor) -> Tensor:
    """As float32, or as they are where they are wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def weighted_nll(log_p: Tensor, labels: Tensor, factors: Tensor) -> Tensor:
    """-factor log p[label], mean over the batch; log_p: (B, K), factors: (B,). With factors of 1 it is cross-entropy."""
    return functional.nll_loss(factors[:, None] * log_p, labels)


def select_labels(log_p: Tensor, labels: Tensor) -> Tensor:
    """(B, K) to (B,)."""
    return log_p.gather(1, labels[:, None])[:, 0]


def one_minus_p(log_p: Tensor) -> Tensor:
    """1 - p, to be raised to a power; (B,), at least `SMALLEST`."""
    return (-log_p.expm1()).clamp(min=SMALLEST)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """-(1 - p[label])^gamma log p[label], mean over the batch; with gamma 0 it is cross-entropy."""
    log_p = functional.log_softmax(logits, dim=1)
    return weighted_nll(log_p, labels, one_minus_p(select_labels(log_p, labels)) ** gamma)


def confidences(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability of every row, and 1 where it is the label's, else 0, without gradient; (B,) each."""
    largest, guess = functional.softmax(logits, dim=1).max(dim=1)
    return largest, (guess == labels).to(largest.dtype)


def check_not_negative(name: str, value: float) -> None:
    """Raises `ValueError` for a negative, infinite or undefined number."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be 0 or more")


def check_smoothing(name: str, value: float) -> None:
    """Raises `ValueError` outside [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}; it must lie in [0, 1)")
