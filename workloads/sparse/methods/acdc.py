"""Alternate dense and sparse phases, pruning by magnitude at each compression; the last phase is sparse (AC/DC).

Reference: Peste et al. 2021, AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks (arXiv:2106.12379)

Phases change at the shares of the budget in `phase_boundaries`: first from dense to sparse, then back, and so on. The default is
the authors' CIFAR-100 schedule of 200 epochs, with a change every 20 epochs from 10 to 170. Their ImageNet schedule of 100 epochs
is `phase_boundaries: [0.1, 0.15, 0.2, 0.25, ..., 0.7, 0.75, 0.85]`: 10 epochs dense, then 5 and 5 up to 75, 10 dense, 15 sparse.
A mask does not change within its phase; when all weights are trained again, the dropped ones restart from zero, with zero
optimizer state. Changes that a short budget rounds to the same step cancel each other; the last step is always sparse. The
optimizer also steps at a change. The dense network of the last dense phase is not kept.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.masks.masks import full_masks, keep_largest_by_scope
from pruneyard.workloads.sparse.updater import DenseStart, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["ACDC"]


@dataclass(frozen=True, kw_only=True)
class ACDC(DenseStart):
    """Alternating compressed and decompressed training."""

    phase_boundaries: tuple[float, ...] = field(  # shares of the budget
        default=(0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85), metadata=renamed("changes")
    )
    scope: Literal["layer", "global"] = (
        "global"  # where magnitudes are compared; global ignores `distribution`
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        rising = all(one < other for one, other in pairwise(self.phase_boundaries))
        if not (rising and all(0 <= share < 1 for share in self.phase_boundaries)):
            raise ValueError(
                f"phase_boundaries is {list(self.phase_boundaries)}; it must be rising shares of the budget in [0, 1)"
            )
        if len(self.phase_boundaries) % 2 == 0:
            raise ValueError(
                f"phase_boundaries is {list(self.phase_boundaries)}; it must have an odd number of entries, "
                "so that the last phase is sparse"
            )
        if self.scope not in ("layer", "global"):
            raise ValueError(f"scope is {self.scope!r}; it must be layer or global")

    def is_sparse(self, step: int, *, num_steps: int) -> bool:
        """Returns whether masks are at the target density after this step."""
        steps = [min(round(share * num_steps), num_steps - 1) for share in self.phase_boundaries]
        return sum(change <= step for change in steps) % 2 == 1

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether the phase changes at this step; False at density 1."""
        before = self.is_sparse(step - 1, num_steps=num_steps)
        return self.density < 1 and self.is_sparse(step, num_steps=num_steps) != before

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns masks at the target density for a sparse phase, masks of ones for a dense one."""
        masks = full_masks(context.weights, [name for name, _ in in_module_order(state.masks, context)])
        if self.is_sparse(context.step, num_steps=context.num_steps):
            masks = keep_largest_by_scope(
                {name: context.weights[name].abs() for name in masks},
                masks,
                scope=self.scope,
                counts=self.counts(context.weights),
                generator=context.generator,
            )
        return SparseState(masks, state.tensors)
