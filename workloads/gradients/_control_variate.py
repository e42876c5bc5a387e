"""Control variates for gradients: a snapshot of the weights, its mean gradient, and the coefficient of the correction.

With g the gradient of a batch, gs that of the snapshot on the same batch, and mu the mean of gs over batches (the anchor),
the optimizer sees g + c (mu - gs). Its expectation is that of g for any c that does not depend on the batch, if mu is the
mean over all batches. Reference: Johnson and Zhang 2013, Accelerating stochastic gradient descent using predictive variance
reduction (SVRG), where c = 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.gradients._variance import with_variance
from pruneyard.workloads.interfaces import Batch, Epoch, Gradient, Probe, RuleState, Tensors

SNAPSHOT, ANCHOR, MASK = "snapshot/", "anchor/", "mask/"


class Comparison(Protocol):
    """Collects statistics over the batches at the start of an epoch, to estimate the coefficient."""

    def observe(self, batch: Probe, *, loss: Tensor, gradient: Tensors) -> None:
        """Adds a batch; loss, gradient: at the weights that become the snapshot."""
        ...

    def coefficient(self) -> float | None:
        """Returns the estimate in [0, 1], or None if the batches determine none."""
        ...


class NoComparison:
    """No statistics, for a rule with a fixed coefficient."""

    def observe(self, batch: Probe, *, loss: Tensor, gradient: Tensors) -> None:
        """Does nothing."""

    def coefficient(self) -> None:
        """Returns None: there is no estimate."""


@dataclass(frozen=True, kw_only=True)
class ControlVariate(ABC):
    """A gradient rule with a snapshot and an anchor; subclasses define the coefficient c.

    Masks apply to the corrected gradient as to any other. Growth by gradient uses g. A snapshot taken under older masks does not
    change: it is zero where weights were grown since. The anchor is dense where masks will grow by gradient before the next
    snapshot. Otherwise it has the masks of its snapshot and the cost of a sparse gradient, and weights that are grown in between,
    as SET grows them, are not corrected until the next one.
    """

    revision: ClassVar[int] = 2  # before, the anchor was always computed and counted dense

    anchor_fraction: float = 1.0  # share of the epoch's batches in the anchor, in (0, 1]; below 1 it is noisy
    refresh_every: int = 1  # epochs between two snapshots
    # report `train/gradient_variance_ratio`: the variance of the corrected gradients of the epoch so far, divided by that of g
    measure_variance: bool = field(default=False, metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if not 0 < self.anchor_fraction <= 1:
            raise ValueError(f"anchor_fraction is {self.anchor_fraction}; it must lie in (0, 1]")
        if self.refresh_every < 1:
            raise ValueError(f"refresh_every is {self.refresh_every}; it must be 1 or more epochs")

    @abstractmethod
    def initial_numbers(self) -> Mapping[str, float]:
        """Returns the numbers of the state before the first epoch."""

    @abstractmethod
    def comparison(self, snapshot: Tensors, masks: Tensors) -> Comparison:
        """Returns the statistics for the start of one epoch; `snapshot` is the one about to be replaced."""

    @abstractmethod
    def numbers(self, before: Mapping[str, float], newest: float | None) -> Mapping[str, float]:
        """Returns the numbers of the state after the start of an epoch; `newest` is the estimated coefficient."""

    @abstractmethod
    def effective_coefficient(self, numbers: Mapping[str, float]) -> float:
        """Returns the coefficient c for the steps of the epoch."""

    def start(self, weights: Tensors) -> RuleState:
        """Returns the initial weights as snapshot; the first epoch start, before any step, computes the anchor."""
        return RuleState(add_prefix(SNAPSHOT, clone_tensors(weights)), self.initial_numbers())

    def on_epoch_start(self, state: RuleState, epoch: Epoch) -> RuleState:
        """Returns the current weights as the next snapshot, and the mean of the batches' gradients at them as anchor."""
        if epoch.number % self.refresh_every:
            return state
        weights = clone_tensors(epoch.weights)
        comparison = self.comparison(select_prefix(state, SNAPSHOT), epoch.masks)
        total: dict[str, Tensor] = {}
        num = 0
        masks = clone_tensors(epoch.gradient_masks(self.refresh_every))
        for batch in epoch.batches(self.anchor_fraction, masks):
            loss, gradient = batch.gradient_at(weights)
            comparison.observe(batch, loss=loss, gradient=gradient)
            if not total:
                total = {name: torch.zeros_like(tensor) for name, tensor in gradient.items()}
            torch._foreach_add_(list(total.values()), [gradient[name] for name in total])
            num += 1
        torch._foreach_div_(list(total.values()), num)
        return RuleState(
            tensors={**add_prefix(SNAPSHOT, weights), **add_prefix(ANCHOR, total), **add_prefix(MASK, masks)},
            numbers=self.numbers(state.numbers, comparison.coefficient()),
        )

    def gradient(self, state: RuleState, batch: Batch) -> tuple[Gradient, RuleState]:
        """Returns g + c (mu - gs), and g outside the masks of mu.

        The snapshot comes first, so that random layers sample the same numbers in both passes.
        """
        _, of_snapshot = batch.gradient_at(select_prefix(state, SNAPSHOT))
        loss = batch.differentiate()
        own, anchor, masks = batch.own_gradient(), select_prefix(state, ANCHOR), select_prefix(state, MASK)
        names = [name for name in own if name in anchor and name in of_snapshot]
        corrected = torch._foreach_sub([anchor[n] for n in names], [of_snapshot[n] for n in names])
        for name, difference in zip(names, corrected, strict=True):
            if name in masks:
                difference.mul_(masks[name])
        torch._foreach_mul_(corrected, self.effective_coefficient(state.numbers))
        torch._foreach_add_(corrected, [own[n] for n in names])
        gradient = Gradient(loss=loss, corrected=dict(zip(names, corrected, strict=True)))
        if not self.measure_variance:
            return gradient, state
        measured = with_variance(state.tensors, own=own, corrected=gradient.corrected, masks=batch.masks)
        return gradient, RuleState({**state.tensors, **measured}, state.numbers)


def select_prefix(state: RuleState, prefix: str) -> dict[str, Tensor]:
    """Returns the tensors of one prefix, by their names without it."""
    return {n.removeprefix(prefix): t for n, t in state.tensors.items() if n.startswith(prefix)}


def add_prefix(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """Returns tensors by their names with a prefix."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def clone_tensors(weights: Tensors) -> dict[str, Tensor]:
    """Returns copies in the same memory layout."""
    return {name: tensor.clone() for name, tensor in weights.items()}
