"""Base classes of sparse-training methods.

A method is stateless: it receives tensors and returns new ones, without writing into any. The training loop applies the masks
to weights, gradients and optimizer state.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from pruneyard.workloads.execution.stored_weight import StoredWeight
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.masks.distributions import active_counts
from pruneyard.workloads.masks.index_moves import RowScores, drop_and_grow_index, random_index
from pruneyard.workloads.masks.masks import active_per_layer, full_masks, random_masks
from pruneyard.workloads.masks.sparse_index import Mask, SparseIndex, dense_mask
from pruneyard.workloads.plugins import Plugin, Settings
from pruneyard.workloads.sparse.pattern import LayerMove, Pattern
from pruneyard.workloads.sparse.patterns.unstructured import Unstructured
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Recipe

T = TypeVar("T")
_MOVES = {"start", "update", "drop_scores", "grow_scores"}


def in_module_order(masks: Mapping[str, T], context: UpdateContext) -> Iterator[tuple[str, T]]:
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
class PatternedDensities(LayerDensities):
    """Layer densities of masks in a pattern."""

    pattern: Annotated[Pattern, Plugin("sparse.patterns")] = field(default_factory=Unstructured, metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        super().__post_init__()
        fixed = self.pattern.density
        if fixed is not None and not math.isclose(self.density, fixed, rel_tol=1e-3):
            raise ValueError(f"density is {self.density}; it must be {fixed:.4g}, that of pattern {self.pattern}")

    @property
    def is_patterned(self) -> bool:
        """True if the pattern is another one than `unstructured`."""
        return not isinstance(self.pattern, Unstructured)

    def counts(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Returns the number of active weights of each sparse layer in the pattern, nearest to the target density.

        Raises `ValueError` for layers that do not fit the pattern.
        """
        counts = super().counts(weights)
        return self.pattern.whole_counts(counts, {name: tuple(weights[name].shape) for name in counts})


@dataclass(frozen=True, kw_only=True)
class RandomStart(StaticMask, LayerDensities):
    """A method that starts with random masks at the target density; unless overridden, they never move.

    A subclass that overrides how masks start or move also says whether it does the same with indices: `updates_indices` is False
    in it unless it sets the attribute itself, see `pruneyard.workloads.training.mask_updater.UpdatesIndices`.
    """

    updates_indices: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "updates_indices" not in cls.__dict__ and cls.__dict__.keys() & _MOVES:
            cls.updates_indices = False

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns random masks with exact counts; all masks of this size are equally likely.

        A weight on the meta device gets an index instead, of the same entries.
        """
        masks: dict[str, Tensor] = {}
        indices: dict[str, SparseIndex] = {}
        for name, count in self.counts(weights).items():
            if weights[name].is_meta:
                indices[name] = random_index(weights[name], count, generator=generator)
            else:
                masks |= random_masks(weights, {name: count}, generator=generator)
        return SparseState(masks, indices=indices)


@dataclass(frozen=True, kw_only=True)
class PatternedStart(PatternedDensities, RandomStart):
    """A method that starts with random masks in a pattern."""

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns random masks of the pattern; a weight on the meta device gets an index instead."""
        if not self.is_patterned:
            return super().start(weights, generator=generator)
        masks: dict[str, Tensor] = {}
        indices: dict[str, SparseIndex] = {}
        for name, count in self.counts(weights).items():
            mask = self.pattern.random_mask(tuple(weights[name].shape), count, generator=generator)
            if weights[name].is_meta:
                indices[name] = SparseIndex.of_mask(mask)
            else:
                masks[name] = mask.to(weights[name].device)
        return SparseState(masks, indices=indices)


@dataclass(frozen=True, kw_only=True)
class DenseStart(StaticMask, LayerDensities):
    """A method that starts with masks of ones and prunes later."""

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns masks of ones, without sampling."""
        return SparseState(full_masks(weights, self.counts(weights)))


@dataclass(frozen=True, kw_only=True)
class DropAndGrow(PatternedStart, ABC):
    """Random initial masks that move: each layer drops and grows the same number of weights, by the scores of a subclass.

    The number is floor(current drop fraction * active weights), in a pattern that of its active cells. A weight that is dropped
    and grown in one update does not change; any other grown weight starts at zero, because the loop keeps inactive weights and
    their optimizer state at zero.
    """

    drop_fraction: float = 0.3  # share of a layer's active weights moved by the first update, in [0, 1]
    schedule: UpdateSchedule = field(default_factory=UpdateSchedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_fraction <= 1:
            raise ValueError(f"drop_fraction is {self.drop_fraction}; it must lie in [0, 1]")
        if self.pattern.reads_gradient and not self.grows_by_gradient:
            raise ValueError(f"pattern is {self.pattern}; it needs a method that grows by gradient")

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether the schedule has an update here; False if nothing can move (density 1 or drop fraction 0)."""
        return self.density < 1 and self.drop_fraction > 0 and self.schedule.is_due(step, num_steps=num_steps)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state with every mask and index moved and the other tensors unchanged."""
        fraction = self.drop_fraction * self.schedule.factor(context.step, num_steps=context.num_steps)
        active: dict[str, Mask] = {**state.masks, **state.indices}
        counts = self.counts(context.weights) if self.pattern.reads_gradient else active_per_layer(active)
        last = list(context.weights)[-1]
        masks: dict[str, Tensor] = {}
        indices: dict[str, SparseIndex] = {}
        for name, mask in in_module_order(active, context):
            if isinstance(mask, SparseIndex) and not self.is_patterned:
                indices[name] = self._moved_index(mask, name, fraction, context)
                continue
            move = LayerMove(
                mask=dense_mask(mask),
                drop_scores=self.drop_scores(name, state, context),
                grow_scores=self.grow_scores(name, state, context),
                drop_fraction=fraction,
                count=counts[name],
                layer=name,
                is_last=name == last,
                generator=context.generator,
            )
            moved = self.pattern.drop_and_grow(move)
            if isinstance(mask, SparseIndex):
                indices[name] = SparseIndex.of_mask(moved)
            else:
                masks[name] = moved
        return SparseState(masks, state.tensors, indices=indices)

    def _moved_index(self, index: SparseIndex, name: str, fraction: float, context: UpdateContext) -> SparseIndex:
        """Returns the moved index of a layer without a pattern, which needs no dense tensor."""
        stored = context.stored[name]
        return drop_and_grow_index(
            index,
            drop_scores=self.stored_drop_scores(stored),
            grow_scores=self.stored_grow_scores(stored),
            num_moved=math.floor(fraction * index.num_active),
            generator=context.generator,
            layer=name,
        )

    def drop_scores(self, name: str, state: SparseState, context: UpdateContext) -> Tensor:
        """Returns scores of the shape of one layer's weight; the active weights with the smallest scores are dropped."""
        return context.weights[name].abs()

    def stored_drop_scores(self, stored: StoredWeight) -> Tensor:
        """Returns `drop_scores` of the active entries of a weight that is stored sparse, `(num_active,)`."""
        return stored.values.abs()

    def stored_grow_scores(self, stored: StoredWeight) -> RowScores | None:
        """Returns `grow_scores` of a weight that is stored sparse, by rows; None if all candidates tie."""
        return None

    @abstractmethod
    def grow_scores(self, name: str, state: SparseState, context: UpdateContext) -> Tensor:
        """Returns scores of the shape of one layer's weight; the inactive weights with the largest scores are grown."""


@dataclass(frozen=True, kw_only=True)
class SelectableGrowth(DropAndGrow):
    """Drop and grow at random as SET does, or by gradient as RigL does, as the field `growth` says."""

    updates_indices: ClassVar[bool] = True
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

    def stored_grow_scores(self, stored: StoredWeight) -> RowScores | None:
        """Returns the magnitudes of the dense gradient by rows, or None for growth at random."""
        return gradient_magnitudes(stored) if self.growth == "gradient" else None


def gradient_magnitudes(stored: StoredWeight) -> RowScores:
    """Returns the magnitudes of the dense gradient of a weight that is stored sparse, by rows."""
    return lambda first, last: stored.gradient_rows(first, last).abs()
