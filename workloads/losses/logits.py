"""Base class and building blocks of objectives that depend only on the logits of a batch.

Logits below float32 are converted to float32 first, whatever the precision of the network. No function waits for the device.
Dimensions: B batch, K classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors
from pruneyard.workloads.losses.class_weights import ClassWeight, check_class_weight, row_weights

SMALLEST = 1e-12  # minimum of the base of a power: for exponents below 1 the derivative at 0 is infinite
ROOT_FLOOR = 1e-10  # added under a square root, whose derivative at 0 is infinite


class LogitsObjective(StatelessObjective, ABC):
    """A stateless objective that depends only on the logits of the batch."""

    @abstractmethod
    def loss_of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the scalar loss of logits (B, K), float32 or float64, and labels (B,)."""

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the mean over the batch, in nats, and the memory."""
        logits = to_float32_or_wider(inputs.network(inputs.images))
        return self.loss_of_logits(logits, inputs.labels), inputs.memory


@dataclass(frozen=True, kw_only=True)
class ClassWeightedObjective(LogitsObjective, ABC):
    """A mean over rows of a loss of their logits, each weighted by its class, as `cross_entropy` weighs them."""

    class_weight: ClassWeight = field(default="none", metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        check_class_weight(self.class_weight)

    @abstractmethod
    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Returns the mean over the batch of weight times loss; weights: (B,), None for 1."""

    def loss_of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss of rows that all weigh 1."""
        return self.weighted_loss(logits, labels, None)

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the weighted mean over the batch, in nats, and the memory."""
        logits = to_float32_or_wider(inputs.network(inputs.images))
        weights = row_weights(self.class_weight, inputs.labels, inputs.class_counts)
        return self.weighted_loss(logits, inputs.labels, weights), inputs.memory


def to_float32_or_wider(logits: Tensor) -> Tensor:
    """Returns logits in float32, or unchanged if they are wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def weighted_nll(log_p: Tensor, labels: Tensor, factors: Tensor, weights: Tensor | None = None) -> Tensor:
    """Returns the mean of -weight factor log p[label] over the batch; log_p: (B, K), factors and weights: (B,).

    With factors and weights of 1 it is cross-entropy.
    """
    return functional.nll_loss((factors if weights is None else factors * weights)[:, None] * log_p, labels)


def select_labels(log_p: Tensor, labels: Tensor) -> Tensor:
    """Returns the log probability of each label, (B,), from log_p (B, K)."""
    return log_p.gather(1, labels[:, None])[:, 0]


def one_minus_p(log_p: Tensor) -> Tensor:
    """Returns 1 - p of log p (B,), at least `SMALLEST`, so that it can be raised to a power."""
    return (-log_p.expm1()).clamp(min=SMALLEST)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float, weights: Tensor | None = None) -> Tensor:
    """Returns the mean of -weight (1 - p[label])^gamma log p[label] over the batch; with gamma 0 it is cross-entropy."""
    log_p = functional.log_softmax(logits, dim=1)
    return weighted_nll(log_p, labels, one_minus_p(select_labels(log_p, labels)) ** gamma, weights)


def confidences(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the largest probability of every row, and 1 if it is that of the label, else 0, without gradient; (B,) each."""
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
