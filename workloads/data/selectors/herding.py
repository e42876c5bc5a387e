"""Rows whose mean of features follows the mean of their class, taken one by one (herding).

Reference: Welling 2009, Herding dynamical weights to learn (ICML), as used by Rebuffi et al. 2017, iCaRL (arXiv:1611.07725)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import FEATURES, ByClass, Pool

__all__ = ["Herding"]


@dataclass(frozen=True, kw_only=True)
class Herding(ByClass):
    """Each pick is the row that brings the mean of those picked nearest to the mean of all."""

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({FEATURES})

    def of_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        offsets = pool.features - pool.features.mean(0)  # the picks' offsets are to add up to nothing
        own = offsets.square().sum(1)
        total, chosen = torch.zeros_like(offsets[0]), []
        for _ in range(count):
            row = (own + 2 * (offsets @ total)).argmin()  # |total + offset|^2, but for what all share
            total = total + offsets[row]
            own[row] = torch.inf
            chosen.append(row)
        return torch.stack(chosen)
