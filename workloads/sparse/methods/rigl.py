"""Drop the smallest weights and grow as many where the gradient is largest (RigL).

Reference: Evci et al. 2020, Rigging the Lottery: Making All Tickets Winners (arXiv:1911.11134)

An update replaces the optimizer's step, as in the paper: that batch only chooses the topology.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pruneyard.workloads.execution.stored_weight import StoredWeight
from pruneyard.workloads.masks.index_moves import RowScores
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.updater import gradient_magnitudes
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["RigL"]


@dataclass(frozen=True, kw_only=True)
class RigL(SET):
    """SET with growth by gradient instead of random growth."""

    replaces_step: ClassVar[bool] = True
    grows_by_gradient: ClassVar[bool] = True
    updates_indices: ClassVar[bool] = True

    def grow_scores(self, name: str, state: SparseState, context: UpdateContext) -> Tensor:
        """Returns the magnitude of the dense gradient."""
        return context.gradients[name].abs()

    def stored_grow_scores(self, stored: StoredWeight) -> RowScores | None:
        """Returns the magnitudes of the dense gradient by rows."""
        return gradient_magnitudes(stored)
