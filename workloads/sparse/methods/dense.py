"""Train all weights without masks: the neutral member of the family.

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
    """Dense training."""

    dense_settings: ClassVar[Settings] = {}

    @property
    def target_density(self) -> float:
        """Always 1."""
        return 1.0

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns a state without masks."""
        return SparseState({})
