"""Rows such that no row of their class is far from the nearest one taken, in features (k-center, greedy).

The radius is at most twice the smallest possible. Outliers are taken early, so few rows chosen so serve badly.

Reference: Sener and Savarese 2018, Active Learning for CNNs: A Core-Set Approach (arXiv:1708.00489)
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import FEATURES, ByClass, Pool

__all__ = ["KCenter"]


@dataclass(frozen=True, kw_only=True)
class KCenter(ByClass):
    """Farthest first."""

    first: Literal["random", "central"] = "random"  # or the row nearest to the mean of its class

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first not in ("random", "central"):
            raise ValueError(f"first is {self.first!r}; it must be random or central")

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({FEATURES})

    def of_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        points = pool.features - pool.features.mean(0)  # near the origin, where squares lose least
        own = points.square().sum(1)
        row = own.argmin() if self.first == "central" else torch.randint(len(points), (), generator=generator)
        nearest = torch.full_like(own, torch.inf)  # squared distance to the nearest row taken; below 0: taken
        chosen = []
        for _ in range(count):
            chosen.append(row)
            nearest = torch.minimum(nearest, (own + own[row] - 2 * (points @ points[row])).clamp(min=0))
            nearest[row] = -1.0
            row = nearest.argmax()
        return torch.stack([place.to(points.device) for place in chosen])
