"""Random rows of each class: what every choice is held against.

Reference: the baseline of Guo, Zhao and Bai 2022, DeepCore (arXiv:2204.08499)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import ByClass, Pool

__all__ = ["Random"]


@dataclass(frozen=True, kw_only=True)
class Random(ByClass):
    """Without replacement."""

    def of_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(pool.labels), generator=generator)[:count]
