"""Drop the smallest weights of all layers and grow by gradient, so that density moves between layers (DSL).

Reference: Wang et al. 2024, Dynamic Sparse Learning: A Novel Paradigm for Efficient Recommendation (arXiv:2402.02855)

Density moves between layers, such as the embedding tables of a recommender's fields, while the number of active weights
stays. The paper's text was not read. What its abstract leaves open is taken from the authors' code, or decided here
(unverified). From the code: the start is uniform, magnitude drops, the gradient of the batch grows, and the share moved falls
by a cosine from 0.5 to the end of the training, with an update every 3000 steps. The code ranks the weights of each tensor by
themselves, but its LightGCN holds users and items in one tensor, so that they compete. Decided here: layers compete, because
each field has a table of its own, and each layer keeps at least one weight. With a single layer this is ITOP with growth by
gradient. The optimizer also steps at an update; here after it, in the code before. Layers of other kinds have weights and
gradients of other scales: `keep_dense` leaves them out.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from pruneyard.workloads.masks.masks import active_per_layer, keep_largest_overall, keep_largest_together
from pruneyard.workloads.sparse.update_schedule import LastingSchedule
from pruneyard.workloads.sparse.updater import RandomStart, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["DSLRec"]


@dataclass(frozen=True, kw_only=True)
class DSLRec(RandomStart):
    """Dynamic sparse learning for recommendation."""

    grows_by_gradient: ClassVar[bool] = True

    distribution: Literal["uniform", "er", "erk"] = "uniform"  # of the initial masks
    drop_fraction: float = 0.5  # share of all active weights moved by the first update, in [0, 1]
    schedule: LastingSchedule = field(default_factory=lambda: LastingSchedule(every=3000))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_fraction <= 1:
            raise ValueError(f"drop_fraction is {self.drop_fraction}; it must lie in [0, 1]")

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether the schedule has an update here; False if nothing can move."""
        return self.density < 1 and self.drop_fraction > 0 and self.schedule.is_due(step, num_steps=num_steps)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns masks with as many active weights in all, moved between and within layers."""
        masks = dict(in_module_order(state.masks, context))
        num_active = sum(active_per_layer(masks).values())
        fraction = self.drop_fraction * self.schedule.factor(context.step, num_steps=context.num_steps)
        num_moved = min(math.floor(fraction * num_active), num_active - len(masks))
        if num_moved == 0:
            return state
        magnitudes: dict[str, Tensor] = {name: context.weights[name].abs() for name in masks}
        kept = keep_largest_overall(magnitudes, masks, count=num_active - num_moved, generator=context.generator)
        grown = keep_largest_together(
            {name: context.gradients[name].abs() for name in masks},
            {name: ~mask for name, mask in kept.items()},
            count=num_moved,
            generator=context.generator,
        )
        return SparseState({name: mask | grown[name] for name, mask in kept.items()}, state.tensors)
