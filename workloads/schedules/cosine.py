"""Learning rate: half a cosine from the base rate down to a floor.

Reference: Loshchilov and Hutter, SGDR (ICLR 2017), without restarts
"""

import math
from dataclasses import dataclass

from pruneyard.workloads.schedules._warmup import Warmup

__all__ = ["Cosine"]


@dataclass(frozen=True, kw_only=True)
class Cosine(Warmup):
    """Decays to `floor` times the base rate at the end of the budget."""

    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is {self.floor}; it must lie in [0, 1]")

    def decay(self, progress: float) -> float:
        """Returns 1 at progress 0 and `floor` at progress 1."""
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
