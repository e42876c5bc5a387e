"""Base classes of sparse-training methods.

A method is stateless: it receives tensors and returns new ones, without writing into any. The training loop applies the masks
to weights, gradients and optimizer state.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruneyard.workloads.masks.distributions import active_counts
from pruneyard.workloads.masks.masks import active_per_layer, drop_and_grow, full_masks, random_masks
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Recipe


def in_module_order(masks: Mapping[str, Tensor], context: UpdateContext) -> Iterator[tuple[str, Tensor]]:
    """Returns names and masks in module order: random choices must not depend on the order in a checkpoint."""
    return ((name, masks[name]) for name in context.weights if name in masks)


class StaticMask:
    """Base class of a method whose masks never move and that reads no gradients."""

    replaces_step: ClassVar[bool] = False
    grows_by_gradient: ClassVar[bool] = False
    follows_gradient: ClassVar[bool] = False
    dense_settings: ClassVar[Settings] = {"density": 1.0}

    def complete(self, recipe: Recipe) -> Recipe:
        """Returns the recipe unchanged."""
        return recipe

    def extra_decay(self, state: SparseState) -> Mapping[str, Tensor]:
        """Returns no extra weight decay."""
        return {}

    def observe_gradients(self, state: SparseState, gradients: Mapping[str, Tensor]) -> SparseState:
        """Returns the state unchanged."""
        return state

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns False: masks never move."""
        return False

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state unchanged."""
        return state


@dataclass(frozen=True, kw_only=True)
class LayerDensities:
    """Fields of every method with a target density, and the number of weights that each layer then keeps."""

    density: float  # active / all prunable weights that are not kept dense, in (0, 1]
    distribution: Literal["uniform", "er", "erk"] = "erk"
    keep_dense: tuple[str, ...] = ()  # layer names, shell patterns, or `first`; outside both sums of density

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density is {self.density}; it must lie in (0, 1]")
        if self.distribution not in ("uniform", "er", "erk"):
            raise ValueError(f"distribution is {self.distribution!r}; it must be uniform, er or erk")

    @property
    def target_density(self) -> float:
        """Target active share of the prunable weights that are not kept dense."""
        return self.density

    def counts(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Returns the number of active weights of each sparse layer at the target density."""
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        return active_counts(shapes, density=self.density, rule=self.distribution, keep_dense=self.keep_dense)


@dataclass(frozen=True, kw_only=True)
class RandomStart(StaticMask, LayerDensities):
    """A method that starts with random masks at the target density; unless overridden, they never move."""

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns random masks with exact counts; all masks of this size are equally likely."""
        return SparseState(random_masks(weights, self.counts(weights), generator=generator))


@dataclass(frozen=True, kw_only=True)
class DenseStart(StaticMask, LayerDensities):
    """A method that starts with masks of ones and prunes later."""

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns masks of ones, without sampling."""
        return SparseState(full_masks(weights, self.counts(weights)))


@dataclass(frozen=True, kw_only=True)
class DropAndGrow(RandomStart, ABC):
    """Random initial masks that move: each layer drops and grows the same number of weights, by the scores of a subclass.

    The number is floor(current drop fraction * active weights). A weight that is dropped and grown in one update does not
    change; any other grown weight starts at zero, because the loop keeps inactive weights and their optimizer state at zero.
    """

    drop_fraction: float = 0.3  # share of a layer's active weights moved by the first update, in [0, 1]
    schedule: UpdateSchedule = field(default_factory=UpdateSchedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_fraction <= 1:
            raise ValueError(f"drop_fraction is {self.drop_fraction}; it must lie in [0, 1]")

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether the schedule has an update here; False if nothing can move (density 1 or drop fraction 0)."""
        return self.density < 1 and self.drop_fraction > 0 and self.schedule.is_due(step, num_steps=num_steps)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state with every mask moved and the other tensors unchanged."""
        fraction = self.drop_fraction * self.schedule.factor(context.step, num_steps=context.num_steps)
        num_active = active_per_layer(state.masks)
        masks = {
            name: drop_and_grow(
                mask,
                drop_scores=self.drop_scores(name, state, context),
                grow_scores=self.grow_scores(name, state, context),
                num_moved=math.floor(fraction * num_active[name]),
                generator=context.generator,
                layer=name,
            )
            for name, mask in in_module_order(state.masks, context)
        }
        return SparseState(masks, state.tensors)

    def drop_scores(self, name: str, state: SparseState, context: UpdateContext) -> Tensor:
        """Returns scores of the shape of one layer's weight; the active weights with the smallest scores are dropped."""
        return context.weights[name].abs()

    @abstractmethod
    def grow_scores(self, name: str, state: SparseState, context: UpdateContext) -> Tensor:
        """Returns scores of the shape of one layer's weight; the inactive weights with the largest scores are grown."""


@dataclass(frozen=True, kw_only=True)
class SelectableGrowth(DropAndGrow):
    """Drop and grow at random as SET does, or by gradient as RigL does, as the field `growth` says."""

    growth: Literal["random", "gradient"] = "gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.growth not in ("random", "gradient"):
            raise ValueError(f"growth is {self.growth!r}; it must be random or gradient")

    @property
    def grows_by_gradient(self) -> bool:  # type: ignore[override]  # a class attribute elsewhere; here it depends on a field
        """True if an update reads the dense gradient."""
        return self.growth == "gradient"

    def grow_scores(self, name: str, state: SparseState, context: UpdateContext) -> Tensor:
        """Returns the magnitude of the dense gradient, or zeros, with which all candidates tie and ties are broken at random."""
        if self.growth == "gradient":
            return context.gradients[name].abs()
        return torch.zeros_like(context.weights[name])
