"""Prune once before training, by how much the loss of one batch depends on each weight.

Reference: Lee et al. 2019, SNIP: Single-shot Network Pruning based on Connection Sensitivity (arXiv:1810.02340)

The score is |w g| on the first batch, at the weights that are then trained; the authors score a copy with another random
initialisation. That batch trains nothing and costs one dense step of the budget. As in the paper, one ranking goes over all
layers; it is known to empty layers at densities of 0.02 and below. Here each layer keeps its best weight, and a warning names
the layers that keep only this one. With `scope: layer` the ranking is within layers, each at the density that
`distribution` gives it, as in the RigL authors' SNIP.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

from pruneyard.workloads.masks.masks import active_per_layer, keep_largest_by_scope
from pruneyard.workloads.sparse.updater import DenseStart, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["SNIP"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SNIP(DenseStart):
    """Pruning at initialisation by connection sensitivity."""

    replaces_step: ClassVar[bool] = True
    grows_by_gradient: ClassVar[bool] = True

    scope: Literal["layer", "global"] = "global"  # where scores are compared; global ignores `distribution`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in ("layer", "global"):
            raise ValueError(f"scope is {self.scope!r}; it must be layer or global")

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns True at the first step only, and never at density 1."""
        return step == 0 and self.density < 1

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state pruned to the target density."""
        masks = keep_largest_by_scope(
            {name: (context.weights[name] * context.gradients[name]).abs() for name in state.masks},
            dict(in_module_order(state.masks, context)),
            scope=self.scope,
            counts=self.counts(context.weights),
            generator=context.generator,
        )
        collapsed = [name for name, count in active_per_layer(masks).items() if count == 1]
        if collapsed:
            logger.warning("SNIP at density %g left only one weight in %s", self.density, ", ".join(collapsed))
        return SparseState(masks, state.tensors)
