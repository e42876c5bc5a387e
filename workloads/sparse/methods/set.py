"""Drop the smallest weights and grow as many at random (SET).

Reference: Mocanu et al. 2018, Scalable training with adaptive sparse connectivity (arXiv:1707.04780)

The optimizer also steps at an update, as in the RigL authors' SET and in ITOP; jaxpruner skips that step.
Weights are dropped by magnitude, as in all later code; the first paper drops the smallest positive and the largest
negative weights separately.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.sparse.updater import DropAndGrow
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["SET"]


@dataclass(frozen=True, kw_only=True)
class SET(DropAndGrow):
    """Drop by magnitude, grow at random."""

    updates_indices: ClassVar[bool] = True

    def grow_scores(self, name: str, state: SparseState, context: UpdateContext) -> Tensor:
        """Returns zeros: all candidates tie, and ties are broken at random."""
        return torch.zeros_like(context.weights[name])
