"""The protocols of a training step's plug-ins. Each family has a neutral member, so the loop needs no special cases."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.ranks import Share

Network = Callable[[Tensor], Tensor]
"""Maps images `(B, C, H, W)` or features `(B, C, ...)` to logits `(B, K)`."""

Tensors = Mapping[str, Tensor]
"""Weights or gradients by parameter name; the weights of a network include its buffers. Receivers do not write into them."""

InputKind = Literal["any", "images", "pixels"]
"""Any inputs; those with the axes (C, H, W); or those whose black and white are known."""

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True, kw_only=True)
class PixelRange:
    """The normalised values of black and white, each (1, C, 1, 1); a pixel in [0, 1] lies between them."""

    black: Tensor
    white: Tensor


def known_range(pixels: PixelRange | None) -> PixelRange:
    """Returns the range of pixels. Raises `ValueError` for features, which have none."""
    if pixels is None:
        raise ValueError("the data has features, which have no black and white; only pixels can be changed within their range")
    return pixels


@dataclass(kw_only=True, slots=True)  # not frozen: that would cost some microseconds in every step
class LossInputs:
    """The inputs of an objective: a batch and the network, which is in training mode."""

    network: Network
    images: Tensor  # (B, C, H, W) or features (B, C, ...), normalised: the rows of this rank
    labels: Tensor  # (B,) int64
    share: Share  # which rows of the whole batch these are; random numbers are sampled for all rows, then `share.of` selects
    rows: Callable[[], Tensor]  # returns the indices of the rows in the train split, (B,) int64
    memory: Tensors  # the state of the objective
    pixels: PixelRange | None  # None for features
    eval_mode: Callable[[], AbstractContextManager[object]]  # a context in which the network is in evaluation mode
    preserve_buffers: Callable[[], AbstractContextManager[object]]  # a context after which running statistics are restored
    make_generator: Callable[[], torch.Generator]  # on the CPU; every call within a step returns the same state
    class_counts: Tensor  # (K,) int64: the number of training rows of each class


class SplitLogits(Protocol):
    """The logits of the network on whole splits, in evaluation mode at the start of an epoch; counted as training work."""

    def logits(self, split: Literal["train", "val"]) -> tuple[Tensor, Tensor]:
        """Returns logits (N, K) float32 and labels (N,) int64 of all rows in order, not augmented; equal on every rank.

        Raises `ValueError` if the split has no rows.
        """
        ...


class Objective(Protocol):
    """The training loss. The neutral member is `cross_entropy`.

    An objective is stateless: its memory is the tensors that it receives and returns, which checkpoints store. With several
    ranks, the tensors that a step replaced are averaged after it. A memory tensor with one element is reported as a metric of
    the split `train`.
    """

    num_extra: ClassVar[int]  # outputs of the network beyond the classes; they come last
    is_batch_level: ClassVar[bool]  # whether the loss combines rows of a batch; each rank combines only its own
    neutral_settings: ClassVar[tuple[Settings, ...]]  # with which it trains bit for bit as `cross_entropy`; () if none
    takes: ClassVar[InputKind]  # the inputs that it is defined for

    @property
    def extra_forwards(self) -> float:
        """Work in addition to one forward and one backward pass of the batch, in forward passes."""
        ...

    def start(self) -> Tensors:
        """Returns the memory before the first step."""
        ...

    def on_epoch_start(self, memory: Tensors, *, epoch: int, num_epochs: int, split_logits: SplitLogits) -> Tensors:
        """Returns the memory for an epoch that starts, counted from 0; num_epochs includes a last partial epoch."""
        ...

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the loss, a scalar mean over the batch, and the new memory. Must not write into any tensor.

        With several ranks each computes the loss of its own rows and the losses are averaged: a loss of pairs of rows sees only
        pairs within a rank.
        """
        ...


class StatelessObjective:
    """Base class of an objective without memory, extra outputs and extra work."""

    num_extra: ClassVar[int] = 0
    is_batch_level: ClassVar[bool] = False
    fits_val: ClassVar[bool] = False  # whether it fits parameters of the loss to the val split
    neutral_settings: ClassVar[tuple[Settings, ...]] = ()
    takes: ClassVar[InputKind] = "any"

    @property
    def extra_forwards(self) -> float:
        """No extra work."""
        return 0.0

    def start(self) -> Tensors:
        """Returns an empty memory."""
        return {}

    def on_epoch_start(self, memory: Tensors, *, epoch: int, num_epochs: int, split_logits: SplitLogits) -> Tensors:
        """Returns the memory unchanged."""
        return memory


def computed_loss(objective: Objective, inputs: LossInputs) -> tuple[Tensor, Tensors]:
    """Returns loss and memory of an objective. Raises `TypeError` if it returns anything but a scalar and a table of tensors."""
    returned: Any = objective.loss(inputs)
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], Tensor)):
        found = type(returned).__name__
        raise TypeError(f"{type(objective).__name__}.loss returned a {found}; it must return the loss, a scalar, and the memory")
    loss, memory = returned
    if loss.ndim:
        rule = "it must be a scalar, such as the mean over the batch"
        raise TypeError(f"{type(objective).__name__}.loss returned a loss of shape {tuple(loss.shape)}; {rule}")
    return loss, memory


MEASURED = "measured/"
"""Prefix of the scalars in the state of a plug-in that are reported as metrics of the split `train`, without it."""


def measured(tensors: Tensors) -> dict[str, float]:
    """Returns the scalars of a plug-in's state that are metrics, by their names without the prefix."""
    return {name.removeprefix(MEASURED): float(t) for name, t in tensors.items() if name.startswith(MEASURED)}


@dataclass(frozen=True)
class RuleState:
    """The state of a gradient rule, stored in checkpoints.

    `numbers`, and the scalars whose names begin with `measured/`, are reported as metrics of the split `train`.
    """

    tensors: Tensors = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """All that is reported, by name; reading it waits for the device."""
        return {**self.numbers, **measured(self.tensors)}


class Gradient(NamedTuple):
    """The result of a rule for a batch: the loss and, by parameter, the gradients that replace those of the batch."""

    loss: Tensor
    corrected: Tensors = MappingProxyType({})  # other parameters keep the gradient of the batch


class Probe(Protocol):
    """Evaluates the objective on one batch at any weights, in training mode.

    Weights, running statistics, gradients and random states do not change. The work is counted as training work.
    """

    def loss_at(self, weights: Tensors) -> Tensor:
        """Returns the loss, a scalar, by one forward pass."""
        ...

    def gradient_at(self, weights: Tensors) -> tuple[Tensor, Tensors]:
        """Returns the loss and its dense gradients, for every parameter on which it depends."""
        ...


class Batch(Probe, Protocol):
    """The batch of this step. Probes use the same random numbers, such as dropout masks, as `differentiate`."""

    @property
    def weights(self) -> Tensors:
        """The current parameters and buffers of the network: the tensors themselves, not copies."""
        ...

    @property
    def masks(self) -> Tensors:
        """The current masks, bool; a weight without one is dense."""
        ...

    def differentiate(self) -> Tensor:
        """Returns the loss at the current weights; fills `.grad` and updates running statistics."""
        ...

    def own_gradient(self) -> Tensors:
        """Returns the dense gradients that `differentiate` computed."""
        ...


class Epoch(Protocol):
    """The epoch that is about to start."""

    @property
    def number(self) -> int:
        """Index of the epoch, from 0."""
        ...

    @property
    def weights(self) -> Tensors:
        """The current parameters and buffers of the network; a rule that keeps them must copy them."""
        ...

    @property
    def masks(self) -> Tensors:
        """The current masks, bool; a weight without one is dense."""
        ...

    def gradient_masks(self, num_epochs: int) -> Tensors:
        """Returns the masks, bool, outside which gradients of this moment are of no use in the next `num_epochs` epochs.

        They are the trained weights; empty if masks will grow by gradient in that time, so that dense gradients are needed.
        """
        ...

    def batches(self, fraction: float, masks: Tensors = MappingProxyType({})) -> Iterator[Probe]:
        """Yields a random share of the epoch's batches, at least one, each augmented as in its own step.

        masks: those of `gradient_masks`; gradients are zero outside them and counted as sparse. Without masks they are dense.
        """
        ...


class GradientRule(Protocol):
    """A transformation of the gradient before masking and optimizer step. The neutral member is `plain`.

    A rule is stateless and writes into no tensor: its state is what it receives and returns. Mask updates read the
    uncorrected gradient of the batch; in a step that a mask update replaces, the rule is not called.
    """

    neutral_settings: ClassVar[tuple[Settings, ...]]  # with which it trains bit for bit as `plain`; () if none

    def start(self, weights: Tensors) -> RuleState:
        """Returns the state before the first step; `weights` are the network's own tensors, so the rule copies what it keeps."""
        ...

    def on_epoch_start(self, state: RuleState, epoch: Epoch) -> RuleState:
        """Returns the state for an epoch; called before its first step."""
        ...

    def gradient(self, state: RuleState, batch: Batch) -> tuple[Gradient, RuleState]:
        """Returns the corrected gradient of a batch and the new state; must call `batch.differentiate` exactly once."""
        ...


class OptimizerBuilder(Protocol):
    """The spec table of an optimizer."""

    @property
    def lr(self) -> float:
        """The base learning rate."""
        ...

    def build(self, parameters: NamedParameters) -> torch.optim.Optimizer:
        """Returns the optimizer. It must keep a weight at zero whose value, gradient and state are zero: masks rely on it."""
        ...


class RateSchedule(Protocol):
    """A learning-rate schedule over the budget, as a factor of the optimizer's `lr`."""

    def factor(self, step: int, num_steps: int) -> float:
        """Returns the factor at the 0-based `step` of `num_steps`."""
        ...
