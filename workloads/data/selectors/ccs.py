"""Selects rows of all degrees of hardness, without the hardest (CCS, coverage-centric coreset selection).

The published method ignores classes; here it is applied to each class separately.

Reference: Zheng et al. 2023, Coverage-centric Coreset Selection for High Pruning Rates (arXiv:2210.15809)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import (
    OUTPUTS,
    ClasswiseSelector,
    Pool,
    area_under_margin,
    error_norms,
    forgetting_events,
)
from pruneyard.workloads.user_code.nearest import nearest

__all__ = ["CCS"]

HARDNESS_SCORES: Mapping[str, Callable[[Pool], Tensor]] = {
    "margin": lambda pool: -area_under_margin(pool),
    "el2n": error_norms,
    "forgetting": forgetting_events,
}


@dataclass(frozen=True, kw_only=True)
class CCS(ClasswiseSelector):
    """Selects random rows from strata of equal width in hardness, as equally many from each stratum as its size allows.

    score: the measure of hardness: the area under the margin of probabilities, as in the released code; EL2N; or forgetting.
    drop: share of the hardest rows that are left out; it is reduced if too few rows would remain.
    """

    score: Literal["margin", "el2n", "forgetting"] = "margin"
    drop: float = 0.3
    strata: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score not in HARDNESS_SCORES:
            rule = f"it must be one of {', '.join(HARDNESS_SCORES)}{nearest(self.score, HARDNESS_SCORES)}"
            raise ValueError(f"score is {self.score!r}; {rule}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is {self.drop}; it must lie in [0, 1), a share of the rows of a class")
        if self.strata < 1:
            raise ValueError(f"strata is {self.strata}; it must be 1 or more")

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({OUTPUTS})

    def select_in_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        # On the CPU, like the random order below.
        hardness = HARDNESS_SCORES[self.score](pool).double().cpu()
        # Drops fewer rows if `count` of them would not remain.
        num_kept = max(len(hardness) - int(self.drop * len(hardness)), count)
        kept = hardness.sort(stable=True).indices[:num_kept]
        strata = stratum_index(hardness[kept], self.strata)
        budgets = allocate_evenly(torch.bincount(strata, minlength=self.strata).tolist(), count)
        shuffled = torch.randperm(num_kept, generator=generator)
        parts = [shuffled[strata[shuffled] == stratum][:budget] for stratum, budget in enumerate(budgets)]
        return kept[torch.cat(parts)]


def stratum_index(values: Tensor, num: int) -> Tensor:
    """Returns the index of each value's stratum (N,) int64, where the range of the values is cut into `num` equal widths."""
    low, high = values.min(), values.max()
    width = (high - low) / num
    # The largest value itself would fall into a stratum of its own.
    return ((values - low) / width).long().clamp(max=num - 1) if width > 0 else torch.zeros_like(values, dtype=torch.int64)


def allocate_evenly(sizes: list[int], total: int) -> list[int]:
    """Returns how many rows each stratum gives.

    From the smallest stratum to the largest, each gives an equal share of the rows still needed, or all that it has.
    """
    counts, remaining = [0] * len(sizes), total
    # Small strata first: what they cannot give is shared by the larger ones.
    for position, stratum in enumerate(sorted(range(len(sizes)), key=lambda stratum: sizes[stratum])):
        counts[stratum] = min(sizes[stratum], remaining // (len(sizes) - position))
        remaining -= counts[stratum]
    return counts
