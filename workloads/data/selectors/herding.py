"""Selects rows one by one such that their mean feature vector follows that of their class (herding).

Reference: Welling 2009, Herding dynamical weights to learn (ICML), as used by Rebuffi et al. 2017, iCaRL (arXiv:1611.07725)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import FEATURES, ClasswiseSelector, Pool

__all__ = ["Herding"]


@dataclass(frozen=True, kw_only=True)
class Herding(ClasswiseSelector):
    """Selects, at each step, the row that brings the mean of the selected rows closest to the mean of all."""

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({FEATURES})

    def select_in_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        offsets = pool.features - pool.features.mean(0)  # the offsets of the selected rows should add up to zero
        squares = offsets.square().sum(1)
        total, chosen = torch.zeros_like(offsets[0]), []
        for _ in range(count):
            row = (squares + 2 * (offsets @ total)).argmin()  # |total + offset|^2 without |total|^2, which is constant
            total = total + offsets[row]
            # Never selected again.
            squares[row] = torch.inf
            chosen.append(row)
        return torch.stack(chosen)
