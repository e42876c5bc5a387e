"""The protocol of a sparse-training method: its state, what an update receives, and what the training loop calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from pruneyard.workloads.execution.stored_weight import StoredWeight
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.masks.sparse_index import SparseIndex
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.training.recipe import Recipe


@dataclass(frozen=True)
class SparseState:
    """The state of a method, by parameter name; a weight without a mask is dense.

    masks: which weights are trained; all others are zero, and so are their gradients and optimizer state.
    forward: which weights the network computes with, during training and when finished, if these are fewer than the trained
        ones. The gradient at the masked weights is then applied to all trained ones (straight-through).
    tensors: further tensors of the method.
    revived: initial values of the weights that enter a mask with this update, zero elsewhere; not stored after it.
    rewound: values of parameters and buffers, dense and by full name, that replace those of the network with this update; not
        stored after it. The optimizer then starts without state and skips the step, whose gradient belongs to other weights.
    indices: instead of masks, the indices of weights that are stored sparse, for methods with `updates_indices`.
    """

    masks: Mapping[str, Tensor]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    forward: dict[str, Tensor] = field(default_factory=dict)
    revived: dict[str, Tensor] = field(default_factory=dict)
    rewound: dict[str, Tensor] = field(default_factory=dict)
    indices: Mapping[str, SparseIndex] = field(default_factory=dict)

    @property
    def used(self) -> dict[str, Tensor]:
        """The masks that the network computes with; density and FLOPs refer to these."""
        return {**self.masks, **self.forward}


class FunctionalNetwork(Protocol):
    """The network as a pure function of its weights, for scores that need more than one gradient."""

    @property
    def weights(self) -> Tensors:
        """All parameters and buffers of the network by name; copy before writing into one."""
        ...

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) of an image."""
        ...

    def logits(self, weights: Tensors, images: Tensor, *, training: bool) -> Tensor:
        """Returns the differentiable logits (B, K) of the network with these tensors; running statistics do not change."""
        ...

    def rows(self, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns images and labels of `per_class` random training rows of each class, or all it has; not augmented."""
        ...

    def count(self, forwards: float, rows: int) -> None:
        """Counts the FLOPs of `forwards` dense forward passes over `rows` rows as training; a backward pass counts as two."""
        ...


def no_index(name: str, num_active: int) -> bool:
    """Returns False: every weight gets a mask."""
    return False


@dataclass(frozen=True, kw_only=True)
class UpdateContext:
    """The input of a mask update: the training after a backward pass and before the optimizer's step."""

    step: int  # from 0, at which the update was due: the current one, or an earlier one whose gradients overflowed
    num_steps: int  # of the whole training
    weights: Mapping[str, Tensor]  # prunable, zero outside masks
    gradients: Mapping[str, Tensor]  # dense, inactive entries included; averaged over ranks
    stored: Mapping[str, StoredWeight] = field(default_factory=dict)  # the weights of the state's `indices`
    can_be_index: Callable[[str, int], bool] = no_index  # whether a weight with so many active entries may get an index, no mask
    generator: torch.Generator  # on the CPU, the same on every rank
    network: FunctionalNetwork


@runtime_checkable
class CountsWeights(Protocol):
    """A method that can compute from shapes alone how many weights each layer keeps."""

    def counts(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Returns the active weights of each sparse layer; raises `ValueError` if the method does not fit the layers."""
        ...


@runtime_checkable
class UpdatesIndices(Protocol):
    """A method that starts and updates weights which are stored sparse by their indices, if `updates_indices` is true.

    `start` then gives an index to a weight on the meta device, which is too large to exist with a mask. All other methods get
    and return masks; those of weights that are stored sparse are made for them.
    """

    updates_indices: ClassVar[bool]


@runtime_checkable
class PrunesToIndices(Protocol):
    """A method that starts with masks and whose updates prune to indices, if `prunes_to_indices` is true.

    A weight gets an index where `UpdateContext.can_be_index` says so. The method is given the indices of weights that are
    stored sparse, as with `UpdatesIndices`.
    """

    @property
    def prunes_to_indices(self) -> bool:
        """Tells whether updates give and take indices."""
        ...


@runtime_checkable
class StaysMasked(Protocol):
    """A method that trains weights which its forward pass leaves out, if `stays_masked` is true: no layer is stored sparse."""

    stays_masked: ClassVar[bool]


class MaskUpdater(Protocol):
    """A sparse-training method: initial masks, mask updates, and the parts of the recipe that it sets."""

    replaces_step: ClassVar[bool]  # an update replaces the optimizer's step
    grows_by_gradient: ClassVar[bool]  # an update reads `UpdateContext.gradients`, which costs a dense backward pass
    follows_gradient: ClassVar[bool]  # `observe_gradients` reads the dense gradient of every step, at that cost
    dense_settings: ClassVar[Settings]  # with which all weights stay active, and it trains bit for bit as `dense`

    @property
    def target_density(self) -> float:
        """Target active share of the prunable weights that are not kept dense, in (0, 1]."""
        ...

    def complete(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with the fields that the method sets; raises `ValueError` if one holds another value."""
        ...

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns the state before the first step; `weights` are the prunable ones in module order."""
        ...

    def extra_decay(self, state: SparseState) -> Mapping[str, Tensor]:
        """Returns weight decay in addition to the optimizer's, per weight: the factor f of a term f * w in the gradient."""
        ...

    def observe_gradients(self, state: SparseState, gradients: Mapping[str, Tensor]) -> SparseState:
        """Returns the state after a step's dense gradients, before its update: masks stay, tensors may change.

        Called at every step if `follows_gradient` is true.
        """
        ...

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether `update` is called at this step; False where the settings leave nothing to move."""
        ...

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state after a mask update; writes into no tensor."""
        ...
