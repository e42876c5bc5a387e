"""Selects rows such that no row of a class is far from the nearest selected one, in features (k-center, greedy).

The radius is at most twice the smallest possible. Outliers are selected early, so small selections train poorly.

Reference: Sener and Savarese 2018, Active Learning for CNNs: A Core-Set Approach (arXiv:1708.00489)
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import FEATURES, ClasswiseSelector, Pool
from pruneyard.workloads.fields import renamed

__all__ = ["KCenter"]


@dataclass(frozen=True, kw_only=True)
class KCenter(ClasswiseSelector):
    """Selects, at each step, the row that is farthest from the rows selected so far."""

    # the first row; central: the row nearest to the mean of its class
    init: Literal["random", "central"] = field(default="random", metadata=renamed("first"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in ("random", "central"):
            raise ValueError(f"init is {self.init!r}; it must be random or central")

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({FEATURES})

    def select_in_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        points = pool.features - pool.features.mean(0)  # centred, so that squares lose less precision
        squares = points.square().sum(1)
        row = squares.argmin() if self.init == "central" else torch.randint(len(points), (), generator=generator)
        nearest = torch.full_like(squares, torch.inf)  # squared distance to the nearest selected row; -1 for selected rows
        chosen = []
        for _ in range(count):
            chosen.append(row)
            nearest = torch.minimum(nearest, (squares + squares[row] - 2 * (points @ points[row])).clamp(min=0))
            # Below every distance, so that a selected row is not selected again where other rows equal it and have distance 0.
            nearest[row] = -1.0
            row = nearest.argmax()
        return torch.stack([row.to(points.device) for row in chosen])
