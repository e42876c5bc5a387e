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

from pruneyard.workloads.execution.stored_weight import StoredWeight
from pruneyard.workloads.masks.index_moves import move_between_layers
from pruneyard.workloads.masks.sparse_index import Mask, SparseIndex
from pruneyard.workloads.sparse.update_schedule import LastingSchedule
from pruneyard.workloads.sparse.updater import RandomStart, gradient_magnitudes, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["DSLRec"]


@dataclass(frozen=True, kw_only=True)
class DSLRec(RandomStart):
    """Dynamic sparse learning for recommendation."""

    grows_by_gradient: ClassVar[bool] = True
    updates_indices: ClassVar[bool] = True

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
        masks_and_indices: dict[str, Mask] = {**state.masks, **state.indices}
        active = dict(in_module_order(masks_and_indices, context))
        indices = {name: mask if isinstance(mask, SparseIndex) else SparseIndex.of_mask(mask) for name, mask in active.items()}
        num_active = sum(index.num_active for index in indices.values())
        fraction = self.drop_fraction * self.schedule.factor(context.step, num_steps=context.num_steps)
        num_moved = min(math.floor(fraction * num_active), num_active - len(indices))
        if num_moved == 0:
            return state
        stored = {name: context.stored.get(name) or stored_view(context, name, index) for name, index in indices.items()}
        moved = move_between_layers(
            indices,
            drop_scores={name: each.values.abs() for name, each in stored.items()},
            grow_scores={name: gradient_magnitudes(each) for name, each in stored.items()},
            num_moved=num_moved,
            generator=context.generator,
        )
        masks = {name: moved[name].mask() for name in active if name in state.masks}
        return SparseState(masks, state.tensors, indices={name: moved[name] for name in active if name in state.indices})


def stored_view(context: UpdateContext, name: str, index: SparseIndex) -> StoredWeight:
    """Returns what an update reads of a weight that is stored dense, in the form of one that is stored sparse."""
    gradient = context.gradients[name].reshape(index.matrix)
    return StoredWeight(
        values=context.weights[name].flatten()[index.flat],
        gradient=gradient.flatten()[index.flat],
        gradient_rows=lambda first, last: gradient[first:last],
    )
