"""Train all weights: no masks, the neutral member of the family.

Reference: the network as it is trained; nothing is masked
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.sparse.updater import StaticMask
from pruneyard.workloads.training.mask_updater import SparseState

__all__ = ["Dense"]


@dataclass(frozen=True, kw_only=True)
class Dense(StaticMask):
    """Nothing to choose, nothing to mask."""

    dense_settings: ClassVar[Settings] = {}

    @property
    def target_density(self) -> float:
        """All of it."""
        return 1.0

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """No masks."""
        return SparseState({})
