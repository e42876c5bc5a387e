"""Prune gradually over all layers, and after each pruning drop and grow by gradient within layers (GraNet).

Reference: Liu et al. 2021, Sparse Training via Boosting Pruning Plasticity with Neuroregeneration (arXiv:2106.10404)

Training starts with random masks at `initial_density` (sparse to sparse; 1 is dense to sparse). Every update first
prunes by one magnitude threshold to the cubic schedule's density, then moves a share of each layer, as RigL does.
After `prune_until` the density is constant and drop and grow continues. `distribution` applies to the initial density only.
There is an update at the very end of pruning, so that the target is met exactly; published code stops one step short of it.
Each layer keeps at least one weight. The optimizer also steps at an update; here after it, in published code before.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.masks.masks import (
    active_per_layer,
    drop_and_grow,
    keep_largest_overall,
    random_masks,
)
from pruneyard.workloads.sparse.update_schedule import CubicSchedule, LastingSchedule
from pruneyard.workloads.sparse.updater import LayerDensities, StaticMask, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["GraNet"]


@dataclass(frozen=True, kw_only=True)
class GraNet(StaticMask, LayerDensities):
    """Gradual pruning with zero-cost regeneration."""

    grows_by_gradient: ClassVar[bool] = True

    initial_density: float = 0.5  # of the first masks, in (0, 1]; `density` where that is larger
    prune_until: float = (
        0.5  # share of the budget at which `density` is reached, by the last step at the latest
    )
    drop_fraction: float = 0.5  # share of a layer's active weights moved after the first pruning, in [0, 1]
    schedule: LastingSchedule = field(default_factory=lambda: LastingSchedule(every=1000))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.initial_density <= 1:
            raise ValueError(f"initial_density is {self.initial_density}; it must lie in (0, 1]")
        if not 0 <= self.prune_until <= 1:
            raise ValueError(
                f"prune_until is {self.prune_until}; it must lie in [0, 1], a share of the budget"
            )
        if not 0 <= self.drop_fraction <= 1:
            raise ValueError(f"drop_fraction is {self.drop_fraction}; it must lie in [0, 1]")

    @property
    def pruning(self) -> CubicSchedule:
        """The pruning schedule, with updates at the intervals of `schedule`."""
        return CubicSchedule(begin=0.0, end=self.prune_until, every=self.schedule.every)

    def initial_counts(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Returns the number of active weights of each sparse layer in the initial masks."""
        return replace(self, density=max(self.density, self.initial_density)).counts(weights)

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns random masks at the initial density."""
        return SparseState(random_masks(weights, self.initial_counts(weights), generator=generator))

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether pruning or `schedule` has an update here; False at density 1."""
        moves = self.drop_fraction > 0 and self.schedule.is_due(step, num_steps=num_steps)
        return self.density < 1 and (moves or self.pruning.is_due(step, num_steps=num_steps))

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns masks pruned over all layers, then moved within each layer."""
        sparsity = self.pruning.reached(context.step, num_steps=context.num_steps)
        initial, final = self.initial_counts(context.weights), self.counts(context.weights)
        pruned = keep_largest_overall(
            {name: context.weights[name].abs() for name in state.masks},
            dict(in_module_order(state.masks, context)),
            count=sum(
                count - math.floor(sparsity * (count - final[name])) for name, count in initial.items()
            ),
            generator=context.generator,
        )
        fraction = self.drop_fraction * self.schedule.factor(context.step, num_steps=context.num_steps)
        num_active = active_per_layer(pruned)
        masks = {
            name: drop_and_grow(
                mask,
                drop_scores=context.weights[name].abs(),
                grow_scores=context.gradients[name].abs(),
                num_moved=math.floor(fraction * num_active[name]),
                generator=context.generator,
                layer=name,
            )
            for name, mask in pruned.items()
        }
        return SparseState(masks, state.tensors)
