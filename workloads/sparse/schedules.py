"""When masks change and by how much: steps and fractions of the budget meet here and nowhere else.

Steps are counted from 0; `num_steps` is the length of the whole training, fractions are shares of it.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class UpdateSchedule:
    """Regular mask updates whose size decays to the end.

    An update is due at the steps `every`, 2 `every`, ... below `until * num_steps`. So the first comes when
    `every` steps have trained the first masks (published code differs: step 0 or `every` - 1), and none comes
    at the end itself, where cosine and inverse power reach zero anyway.
    Reference: Evci et al. 2020, Rigging the Lottery, section 3 and appendix G (arXiv:1911.11134).
    """

    every: int = 100  # steps between updates
    until: float = 0.75  # share of the budget after which masks stay; 0: they never move
    decay: Literal["cosine", "constant", "inverse_power"] = "cosine"
    power: float = 1.0  # of inverse_power, (1 - t / end) ** power; 1 is linear

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1 step")
        if not 0 <= self.until <= 1:
            raise ValueError(f"until is {self.until}; it must lie in [0, 1], a share of the budget")
        if self.decay not in ("cosine", "constant", "inverse_power"):
            raise ValueError(f"decay is {self.decay!r}; it must be cosine, constant or inverse_power")
        if not self.power > 0:
            raise ValueError(f"power is {self.power}; it must be above 0")

    def end(self, num_steps: int) -> int:
        """First step from which no update is due."""
        return round(self.until * num_steps)

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Whether masks are updated at this step."""
        return 0 < step < self.end(num_steps) and step % self.every == 0

    def factor(self, step: int, *, num_steps: int) -> float:
        """Share of the first update's size that is left at this step, in [0, 1]; 0 from the end on."""
        end = self.end(num_steps)
        if step >= end:
            return 0.0
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / end))
        if self.decay == "inverse_power":
            return float((1 - step / end) ** self.power)
        return 1.0
