"""Selects random rows of each class, the baseline of all other selectors.

Reference: the baseline of Guo, Zhao and Bai 2022, DeepCore (arXiv:2204.08499)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import ClasswiseSelector, Pool

__all__ = ["Random"]


@dataclass(frozen=True, kw_only=True)
class Random(ClasswiseSelector):
    """Samples rows without replacement."""

    def select_in_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(pool.labels), generator=generator)[:count]
