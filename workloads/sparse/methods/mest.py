"""Drop weights by magnitude and gradient and grow as many at random, fewer in each stage (MEST).

Reference: Yuan et al. 2021, MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge (arXiv:2110.14032)

This is elastic mutation (EM): prune to density - m, grow back to the density, with m of 0.02, then 0.01, then
nothing, from shares 90/160 and 120/160 of the budget on. Importance is |w| + `gradient_weight` |g| (0 in the released
code). Random growth is how we read the released code, with low confidence. EM&S, which trains above the
density and prunes back, its patterns and its dropping of easy samples are not implemented. Here each layer moves the same
share m / density of its active weights. The optimizer also steps at an update. The released profile of ResNet-32 is uniform with
dense first and last layers: `distribution: uniform, keep_dense: [first, classifier]`; the default is ERK without them, as for the
other methods, so that methods compare at one profile.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.masks.index_moves import drop_and_grow_index
from pruneyard.workloads.masks.masks import active_per_layer, drop_and_grow
from pruneyard.workloads.masks.sparse_index import SparseIndex
from pruneyard.workloads.sparse.updater import RandomStart, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["MEST"]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A schedule of mutations at `every`, 2 `every`, ... steps, whose size changes at shares of the budget."""

    every: int = 1750  # steps between mutations; five epochs of 45,000 images at batch size 128
    sizes: tuple[float, ...] = (0.02, 0.01, 0.0)  # shares of all prunable weights, one per stage
    milestones: tuple[float, ...] = field(  # shares of the budget at which the next stage begins
        default=(0.5625, 0.75), metadata=renamed("changes")
    )

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1 step")
        if not all(0 <= size <= 1 for size in self.sizes):
            raise ValueError(f"sizes is {list(self.sizes)}; it must hold shares in [0, 1]")
        if list(self.milestones) != sorted(self.milestones) or not all(0 <= milestone <= 1 for milestone in self.milestones):
            raise ValueError(f"milestones is {list(self.milestones)}; it must rise and lie in [0, 1]")
        if len(self.sizes) != len(self.milestones) + 1:
            raise ValueError(f"sizes is {list(self.sizes)}; it must have one more entry than milestones")

    def size(self, step: int, *, num_steps: int) -> float:
        """Returns the share of all prunable weights that a mutation moves at this step."""
        return self.sizes[sum(step >= round(milestone * num_steps) for milestone in self.milestones)]

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether masks mutate at this step."""
        return step > 0 and step % self.every == 0 and self.size(step, num_steps=num_steps) > 0


@dataclass(frozen=True, kw_only=True)
class MEST(RandomStart):
    """Random masks with elastic mutation."""

    updates_indices: ClassVar[bool] = True
    gradient_weight: float = 0.0  # of |g| beside |w| in a weight's importance, at least 0
    schedule: Stages = field(default_factory=Stages)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gradient_weight < math.inf:
            raise ValueError(
                f"gradient_weight is {self.gradient_weight}; it must be a finite number of at least 0"
            )
        if self.density < 1 and max(self.schedule.sizes) >= self.density:
            raise ValueError(
                f"schedule has sizes {list(self.schedule.sizes)}; they must stay below density {self.density},"
                " or a mutation drops every weight"
            )

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether the schedule has a mutation here; False at density 1."""
        return self.density < 1 and self.schedule.is_due(step, num_steps=num_steps)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state after a mutation of every layer."""
        share = self.schedule.size(context.step, num_steps=context.num_steps) / self.density
        num_active = active_per_layer({**state.masks, **state.indices})
        masks: dict[str, Tensor] = {}
        indices: dict[str, SparseIndex] = {}
        for name, num in in_module_order(num_active, context):
            num_moved = math.floor(share * num)
            if name in state.indices:
                stored = context.stored[name]
                indices[name] = drop_and_grow_index(
                    state.indices[name],
                    drop_scores=self.importance(stored.values, {name: stored.gradient}, name),
                    grow_scores=None,
                    num_moved=num_moved,
                    generator=context.generator,
                    layer=name,
                )
            else:
                weight = context.weights[name]
                masks[name] = drop_and_grow(
                    state.masks[name],
                    drop_scores=self.importance(weight, context.gradients, name),
                    grow_scores=torch.zeros_like(weight),
                    num_moved=num_moved,
                    generator=context.generator,
                    layer=name,
                )
        return SparseState(masks, state.tensors, indices=indices)

    def importance(self, weight: Tensor, gradients: Mapping[str, Tensor], name: str) -> Tensor:
        """Returns the importance of weights; only active ones matter, so no dense gradient is needed."""
        return weight.abs() + self.gradient_weight * gradients[name].abs() if self.gradient_weight else weight.abs()
