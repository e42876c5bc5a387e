"""Learning rate: half a cosine from the base rate down to a floor.

Reference: Loshchilov and Hutter, SGDR (ICLR 2017), without restarts
"""

import math
from dataclasses import dataclass, field

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.schedules._warmup import Warmup

__all__ = ["Cosine"]


@dataclass(frozen=True, kw_only=True)
class Cosine(Warmup):
    """Decays to `floor` times the base rate, which it reaches at the share `until` and then holds."""

    floor: float = 0.0
    until: float = field(default=1.0, metadata=NEUTRAL_BY_DEFAULT)  # share of the steps after the warm-up, in (0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is {self.floor}; it must lie in [0, 1]")
        if not 0 < self.until <= 1:
            raise ValueError(f"until is {self.until}; it must lie in (0, 1]")

    def decay(self, progress: float) -> float:
        """Returns 1 at progress 0 and `floor` from progress `until` on."""
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(progress / self.until, 1.0)))
