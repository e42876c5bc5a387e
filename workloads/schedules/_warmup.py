"""Base class of learning-rate schedules: a linear warm-up before the decay."""

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Warmup(ABC):
    """A schedule that rises linearly over the first `warmup` share of all steps, then follows `decay` over the rest."""

    warmup: float = 0.0  # share of all steps, in [0, 1)

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it must lie in [0, 1)")

    def factor(self, step: int, num_steps: int) -> float:
        """Returns the factor of the base rate at the 0-based `step`; step 0 of a warm-up of w steps has 1 / w."""
        num_warmup = round(self.warmup * num_steps)
        if step < num_warmup:
            return (step + 1) / num_warmup
        return self.decay((step - num_warmup) / max(1, num_steps - num_warmup))

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Returns the factor at `progress` in [0, 1) of the steps after the warm-up."""
