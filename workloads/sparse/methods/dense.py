"""Train all weights: no masks, the neutral member of the family."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workloads.sparse.updater import Moment, SparseState

__all__ = ["Dense"]


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Nothing to choose, nothing to mask."""

    replaces_step: ClassVar[bool] = False
    grows_by_gradient: ClassVar[bool] = False

    @property
    def target_density(self) -> float:
        """All of it."""
        return 1.0

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """No masks."""
        return SparseState({})

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Never."""
        return False

    def update(self, state: SparseState, moment: Moment) -> SparseState:
        """The same state."""
        return state
