"""Start dense and gradually prune the smallest weights to the target density.

Reference: Zhu and Gupta 2017, To prune, or not to prune: exploring the efficacy of pruning (arXiv:1710.01878)

Pruned weights stay pruned. The optimizer also steps at an update, as in published code. `distribution` shares the target
over layers as for the other methods (the paper prunes uniformly); with `scope: global` there is one threshold for all layers.
Under a `pattern` the cells with the smallest sums of magnitudes are pruned; counts on the way are rounded up to whole cells.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pruneyard.workloads.masks.sparse_index import Mask
from pruneyard.workloads.sparse.pruning import ValuePruning
from pruneyard.workloads.sparse.update_schedule import CubicSchedule
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["Magnitude"]


@dataclass(frozen=True, kw_only=True)
class Magnitude(ValuePruning):
    """Gradual magnitude pruning (GMP)."""

    gives_indices: ClassVar[bool] = True

    scope: Literal["layer", "global"] = (
        "layer"  # where magnitudes are compared; global ignores `distribution`
    )
    schedule: CubicSchedule = field(default_factory=CubicSchedule)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in ("layer", "global"):
            raise ValueError(f"scope is {self.scope!r}; it must be layer or global")
        if self.scope == "global" and self.pattern.is_balanced:
            raise ValueError(f"scope is global; it must be layer with pattern {self.pattern}, which fixes the counts of groups")

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether the schedule prunes here; False at density 1."""
        return self.density < 1 and self.schedule.is_due(step, num_steps=num_steps)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns masks pruned to the schedule's density at this step."""
        sparsity = self.schedule.reached(context.step, num_steps=context.num_steps)
        active: Mapping[str, Mask] = {**state.masks, **state.indices}
        sizes = {name: mask.numel() for name, mask in active.items()}
        counts = {
            name: sizes[name] - math.floor(sparsity * (sizes[name] - count))
            for name, count in self.target_counts(state, context).items()
        }
        return self.pruned(state, context, counts=counts, scope=self.scope)
