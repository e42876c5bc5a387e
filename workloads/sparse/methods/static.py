"""Train with random masks that never change: the lower bound for methods that move them.

Reference: Liu et al. 2022, The Unreasonable Effectiveness of Random Pruning (arXiv:2202.02643)
"""

from dataclasses import dataclass
from typing import ClassVar

from pruneyard.workloads.sparse.updater import PatternedStart

__all__ = ["Static"]


@dataclass(frozen=True, kw_only=True)
class Static(PatternedStart):
    """Fixed random masks."""

    updates_indices: ClassVar[bool] = True
