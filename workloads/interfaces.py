"""The slots of a training step and what may stand in them; each has a neutral member, so the loop has no `if`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.ranks import Share

Network = Callable[[Tensor], Tensor]


"""Images `(B, C, H, W)` to logits `(B, K)`."""


Tensors = Mapping[str, Tensor]


"""Weights or gradients by parameter name; of a network's weights, its buffers too. What is handed out is not written to."""


NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True, kw_only=True)
class PixelRange:
    """What black and white are after normalisation, each (1, C, 1, 1); a pixel in [0, 1] lies between them."""

    black: Tensor
    white: Tensor


@dataclass(kw_only=True, slots=True)  # not frozen, which costs some microseconds: one is made every step
class LossInputs:
    """What an objective is asked: the loss of this batch, of this network, in training mode."""

    network: Network
    images: Tensor  # (B, C, H, W), normalised: of this rank's rows
    labels: Tensor  # (B,) int64
    share: Share  # which rows of the whole batch these are: what is drawn is drawn for all, then `share.of` is taken
    rows: Callable[[], Tensor]  # (B,) int64: which rows of the train split these are
    memory: Tensors  # what the objective remembers
    pixels: PixelRange
    eval_mode: Callable[[], AbstractContextManager[object]]  # in its block the network is in evaluation mode
    preserve_buffers: Callable[[], AbstractContextManager[object]]  # after its block running statistics are as before it
    make_generator: Callable[[], torch.Generator]  # on the CPU; whenever asked in this step, it starts the same


class SplitLogits(Protocol):
    """What the network, as an epoch finds it, makes of whole splits in evaluation mode. The work is counted as training's."""

    def logits(self, split: Literal["train", "val"]) -> tuple[Tensor, Tensor]:
        """(N, K) float32 and the labels (N,) int64, of all rows in their order, not augmented: the same on every rank.

        Raises `ValueError` where the data have no such rows.
        """
        ...


class Objective(Protocol):
    """What is minimised. The neutral member is `cross_entropy`.

    An objective keeps nothing: all it remembers is the tensors it takes and returns, which checkpoints hold. Over several
    ranks those that a step made anew are averaged after it. What is one number is reported as a metric of train.
    """

    num_extra: ClassVar[int]  # outputs of the network beyond the classes, the last ones
    is_batch_level: ClassVar[bool]  # whether it sees rows of a batch together; each of several ranks sees its own alone
    neutral_settings: ClassVar[tuple[Settings, ...]]  # with which it trains bit for bit as `cross_entropy`; () if none

    @property
    def extra_forwards(self) -> float:
        """Work beyond a forward and a backward pass of the batch, in forward passes."""
        ...

    def start(self) -> Tensors:
        """What it remembers before the first step."""
        ...

    def on_epoch_start(self, memory: Tensors, *, epoch: int, num_epochs: int, split_logits: SplitLogits) -> Tensors:
        """At the start of every epoch, counted from 0; a budget that ends within an epoch counts it."""
        ...

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """A scalar, mean over the batch, and what it remembers from now on. Writes into nothing.

        Over several ranks each has its own rows and the losses are averaged: one of pairs of rows then sees pairs in a rank.
        """
        ...


class StatelessObjective:
    """The neutral answers of an objective."""

    num_extra: ClassVar[int] = 0
    is_batch_level: ClassVar[bool] = False
    fits_val: ClassVar[bool] = False  # whether it learns from val what training itself then rests on
    neutral_settings: ClassVar[tuple[Settings, ...]] = ()

    @property
    def extra_forwards(self) -> float:
        """None."""
        return 0.0

    def start(self) -> Tensors:
        """Nothing."""
        return {}

    def on_epoch_start(self, memory: Tensors, *, epoch: int, num_epochs: int, split_logits: SplitLogits) -> Tensors:
        """The same."""
        return memory


@dataclass(frozen=True)
class RuleState:
    """All that a gradient rule remembers; saved in checkpoints. `numbers` are reported as metrics of train."""

    tensors: Tensors = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


class Gradient(NamedTuple):
    """What a rule makes of a batch: its loss and, by parameter, what the optimizer sees in place of its own gradient."""

    loss: Tensor
    corrected: Tensors = MappingProxyType({})  # who is not named keeps the gradient it has


class Probe(Protocol):
    """Asks for the objective on one batch at any weights, in training mode.

    Weights, running statistics, gradients and random streams are left as they were. The work is counted as training's.
    """

    def loss_at(self, weights: Tensors) -> Tensor:
        """A scalar, by a forward pass."""
        ...

    def gradient_at(self, weights: Tensors) -> tuple[Tensor, Tensors]:
        """The loss and its dense gradient, of every parameter that the loss depends on."""
        ...


class Batch(Probe, Protocol):
    """The batch of this step. Before and after `differentiate` a probe draws (dropout, say) what `differentiate` draws."""

    @property
    def weights(self) -> Tensors:
        """The network's own tensors, parameters and buffers."""
        ...

    @property
    def masks(self) -> Tensors:
        """As they stand, bool; a weight without one is dense."""
        ...

    def differentiate(self) -> Tensor:
        """The loss at the network's weights; fills `.grad` and moves running statistics."""
        ...

    def own_gradient(self) -> Tensors:
        """The dense gradient that `differentiate` found."""
        ...


class Epoch(Protocol):
    """The epoch that begins."""

    @property
    def number(self) -> int:
        """From 0."""
        ...

    @property
    def weights(self) -> Tensors:
        """The network's own tensors, parameters and buffers: what is kept is copied."""
        ...

    @property
    def masks(self) -> Tensors:
        """As they stand, bool; a weight without one is dense."""
        ...

    def batches(self, fraction: float) -> Iterator[Probe]:
        """That share of the epoch's batches, at least one, drawn at random, each augmented as in its own step.

        Gradients are counted as dense: masks may move before the epoch is over.
        """
        ...


class GradientRule(Protocol):
    """What becomes of the gradient before masks and optimizer see it. The neutral member is `plain`.

    A rule keeps nothing and writes into nothing: all it remembers is in the state it takes and returns. A mask update reads
    the batch's own gradient; where an update replaces the optimizer's step, the rule is not asked.
    """

    neutral_settings: ClassVar[tuple[Settings, ...]]  # with which it trains bit for bit as `plain`; () if none


    def start(self, weights: Tensors) -> RuleState:
        """Before the first step; `weights` are the network's own tensors: what is kept is copied."""
        ...

    def on_epoch_start(self, state: RuleState, epoch: Epoch) -> RuleState:
        """At the start of every epoch, before its first step."""
        ...

    def gradient(self, state: RuleState, batch: Batch) -> tuple[Gradient, RuleState]:
        """Calls `batch.differentiate` exactly once."""
        ...


class OptimizerBuilder(Protocol):
    """An optimizer's table in the spec."""

    @property
    def lr(self) -> float:
        """The base learning rate."""
        ...

    def build(self, parameters: NamedParameters) -> torch.optim.Optimizer:
        """Must leave a weight at zero whose value, gradient and state are zero: masks rely on it."""
        ...


class RateSchedule(Protocol):
    """The learning rate over the budget, as a factor of the optimizer's `lr`."""

    def factor(self, step: int, num_steps: int) -> float:
        """Factor for the 0-based `step` of `num_steps`."""
        ...
