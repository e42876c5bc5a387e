"""Rows spread over all degrees of hardness, the hardest left out (CCS, coverage-centric).

Published without regard to classes; here each class is treated so by itself.

Reference: Zheng et al. 2023, Coverage-centric Coreset Selection for High Pruning Rates (arXiv:2210.15809)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import (
    OUTPUTS,
    ByClass,
    Pool,
    area_under_margin,
    error_norms,
    forgetting_events,
)

__all__ = ["CCS"]

HARDNESS: Mapping[str, Callable[[Pool], Tensor]] = {
    "margin": lambda pool: -area_under_margin(pool),
    "el2n": error_norms,
    "forgetting": forgetting_events,
}


@dataclass(frozen=True, kw_only=True)
class CCS(ByClass):
    """Random rows of strata of equal width in hardness, each giving as many as the others as far as it has them.

    score: the area under the margin, of probabilities as in released code; or EL2N, or forgetting.
    drop: share of the hardest rows left out, never more than can be.
    """

    score: Literal["margin", "el2n", "forgetting"] = "margin"
    drop: float = 0.3
    strata: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score not in HARDNESS:
            raise ValueError(f"score is {self.score!r}; it must be one of {', '.join(HARDNESS)}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is {self.drop}; it must lie in [0, 1), a share of the rows of a class")
        if self.strata < 1:
            raise ValueError(f"strata is {self.strata}; it must be 1 or more")

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({OUTPUTS})

    def of_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        hardness = HARDNESS[self.score](pool).double().cpu()
        num_kept = max(len(hardness) - int(self.drop * len(hardness)), count)
        kept = hardness.sort(stable=True).indices[:num_kept]
        strata = stratum_of(hardness[kept], self.strata)
        budgets = shares(torch.bincount(strata, minlength=self.strata).tolist(), count)
        shuffled = torch.randperm(num_kept, generator=generator)
        parts = [shuffled[strata[shuffled] == stratum][:budget] for stratum, budget in enumerate(budgets)]
        return kept[torch.cat(parts)]


def stratum_of(values: Tensor, num: int) -> Tensor:
    """(N,) int64, the number of each value's stratum: their range is cut into `num` of equal width."""
    low, high = values.min(), values.max()
    width = (high - low) / num
    return ((values - low) / width).long().clamp(max=num - 1) if width > 0 else torch.zeros_like(values, dtype=torch.int64)


def shares(sizes: list[int], total: int) -> list[int]:
    """How many rows each stratum gives: from the smallest on, an equal share of what is left, or all it has."""
    given, left = [0] * len(sizes), total
    for place, stratum in enumerate(sorted(range(len(sizes)), key=lambda stratum: sizes[stratum])):
        given[stratum] = min(sizes[stratum], left // (len(sizes) - place))
        left -= given[stratum]
    return given
