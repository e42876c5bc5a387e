"""Schedules of mask updates: when masks change and by how much. Only this file converts shares of the budget to steps.

Steps are counted from 0; `num_steps` is the length of the whole training, fractions are shares of it.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class UpdateSchedule:
    """Regular mask updates whose size decays towards the end.

    An update is due at the steps `every`, 2 `every`, ... below `until * num_steps`. So the first one comes after
    `every` steps under the initial masks (published code differs: step 0 or `every` - 1), and there is none at the end
    itself, where cosine and inverse power reach zero anyway.
    Reference: Evci et al. 2020, Rigging the Lottery, section 3 and appendix G (arXiv:1911.11134).
    """

    every: int = 100  # steps between updates
    until: float = 0.75  # share of the budget after which masks do not change; 0: they never do
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
        """Returns the first step from which no update is due."""
        return round(self.until * num_steps)

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether masks are updated at this step."""
        return 0 < step < self.end(num_steps) and step % self.every == 0

    def factor(self, step: int, *, num_steps: int) -> float:
        """Returns the size of an update at this step relative to the first one, in [0, 1]; 0 from the end on."""
        end = self.end(num_steps)
        if step >= end:
            return 0.0
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / end))
        if self.decay == "inverse_power":
            return float((1 - step / end) ** self.power)
        return 1.0


@dataclass(frozen=True, kw_only=True)
class LastingSchedule(UpdateSchedule):
    """Regular mask updates up to the end of the training, whose size does not decay below a floor.

    Reference: the code of Liu et al. 2021, Do We Actually Need Dense Over-Parameterization? (arXiv:2102.02887),
    where a drop fraction of 0.5 decays to 0.005.
    """

    until: float = 1.0
    floor: float = 0.01  # share of the first update's size that the decay ends at, in [0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is {self.floor}; it must lie in [0, 1], a share of the first update")

    def factor(self, step: int, *, num_steps: int) -> float:
        """Returns the size of an update at this step relative to the first one, in [floor, 1]; 0 from the end on."""
        if step >= self.end(num_steps):
            return 0.0
        return self.floor + (1 - self.floor) * super().factor(step, num_steps=num_steps)


@dataclass(frozen=True, kw_only=True)
class CubicSchedule:
    """Gradual pruning: fast at first, then slower; the last update reaches the target exactly.

    With t from 0 at `begin` to 1 at `end`, the sparsity is 1 - (1 - t)^3 of the final one; half-way that is
    7/8. Updates are due at `every`, 2 `every`, ... steps after `begin`, and at the end itself.
    Reference: Zhu and Gupta 2017, To prune, or not to prune (arXiv:1710.01878).
    """

    begin: float = 0.2  # share of the budget up to which everything is dense
    end: float = 0.75  # share of the budget at which the target is reached, by the last step at the latest
    every: int = 100  # steps between updates

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= 1:
            raise ValueError(f"begin is {self.begin}; it must lie in [0, 1], a share of the budget")
        if not self.begin <= self.end <= 1:
            raise ValueError(
                f"end is {self.end}; it must lie in [{self.begin}, 1], from begin to the whole budget"
            )
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1 step")

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether weights are pruned at this step."""
        first, last = self._span(num_steps)
        return step == last or (first < step < last and (step - first) % self.every == 0)

    def reached(self, step: int, *, num_steps: int) -> float:
        """Returns the share of the final sparsity at this step, in [0, 1]; 1 from the end on."""
        first, last = self._span(num_steps)
        if step >= last:
            return 1.0
        return 1 - (1 - max(0.0, (step - first) / (last - first))) ** 3

    def _span(self, num_steps: int) -> tuple[int, int]:
        """Returns the steps of `begin` and `end`."""
        return round(self.begin * num_steps), min(round(self.end * num_steps), num_steps - 1)
