"""Workloads/training/mask_updater.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.training.recipe import Recipe


@dataclass(frozen=True)
class SparseState:
    """All that a method remembers, by parameter name; a weight without a mask is dense.

    masks: which weights are trained; all others are zero, and so are their gradients and optimizer state.
    forward: which weights the network computes with, in training and when finished, where these are fewer than those
        trained. The gradient is that at the weights so cut, taken for all trained ones (straight through).
    tensors: the rest.
    revived: what weights start from that enter a mask with this update, zero elsewhere; not kept after it.
    """

    masks: dict[str, Tensor]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    forward: dict[str, Tensor] = field(default_factory=dict)
    revived: dict[str, Tensor] = field(default_factory=dict)

    @property
    def used(self) -> dict[str, Tensor]:
        """The masks that the network computes with: what density and FLOPs speak of."""
        return {**self.masks, **self.forward}


class FunctionalNetwork(Protocol):
    """The network as a function of its weights, for scores that need more than one gradient. Nothing of it is trained."""

    @property
    def weights(self) -> Tensors:
        """All tensors of the network, parameters and buffers: what is changed is copied."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        ...

    def logits(self, weights: Tensors, images: Tensor, *, training: bool) -> Tensor:
        """Outputs (B, K) of the network with these tensors; differentiable, running statistics are left as they are."""
        ...

    def rows(self, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and labels of so many random training rows of each class (all, where it has fewer), not augmented."""
        ...

    def count(self, forwards: float, rows: int) -> None:
        """Counts the work of so many dense forward passes over so many rows as training's; a backward pass is two."""
        ...


@dataclass(frozen=True, kw_only=True)
class UpdateContext:
    """What an update sees: the training after a backward pass, before the optimizer's step."""

    step: int  # from 0, that the update is due at: the one just differentiated, or skipped just before for an overflow
    num_steps: int  # of the whole training
    weights: Mapping[str, Tensor]  # prunable, zero outside masks
    gradients: Mapping[str, Tensor]  # dense: of inactive entries too; averaged over ranks
    generator: torch.Generator  # on the CPU, the same on every rank
    bench: FunctionalNetwork


@runtime_checkable
class Counting(Protocol):
    """A method that can tell from shapes alone how many weights each layer keeps."""

    def counts(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Active weights of each sparse layer; raises `ValueError` where the method does not fit the layers."""
        ...


class MaskUpdater(Protocol):
    """How masks start and move, and what a method needs of the recipe around it."""

    replaces_step: ClassVar[bool]  # an update takes the place of the optimizer's step
    grows_by_gradient: ClassVar[bool]  # an update reads `UpdateContext.gradients`, which costs a dense backward pass
    follows_gradient: ClassVar[bool]  # `observe_gradients` reads the dense gradient of every step, at that cost
    dense_settings: ClassVar[Settings]  # with which all weights stay active, and it trains bit for bit as `dense`

    @property
    def target_density(self) -> float:
        """Active share that the method aims at, of the prunable weights that are not kept dense."""
        ...

    def complete(self, recipe: Recipe) -> Recipe:
        """The recipe with what belongs to the method filled in; raises `ValueError` where it was filled in otherwise."""
        ...

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Masks before the first step; `weights` are the prunable ones in module order."""
        ...

    def extra_decay(self, state: SparseState) -> Mapping[str, Tensor]:
        """Weight decay of its own, per weight, beside the optimizer's: the factor f of f * w in the gradient."""
        ...

    def observe_gradients(self, state: SparseState, gradients: Mapping[str, Tensor]) -> SparseState:
        """The state after seeing a step's dense gradients, before its update: masks stay, tensors may change.

        Called at every step where `follows_gradient`.
        """
        ...

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Whether `update` is called at this step; False wherever it would move nothing by its settings."""
        ...

    def update(self, state: SparseState, moment: UpdateContext) -> SparseState:
        """The state after this step's update."""
        ...
