"""Learning rate: multiplied by a factor at each milestone.

Reference: He et al., Deep Residual Learning (CVPR 2016), section 4.2
"""

from dataclasses import dataclass

from pruneyard.workloads.schedules._warmup import Warmup

__all__ = ["Step"]


@dataclass(frozen=True, kw_only=True)
class Step(Warmup):
    """Step decay; milestones are shares of the steps after the warm-up."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(
            set(self.milestones)
        ):
            raise ValueError(f"milestones are {list(self.milestones)}; they must rise and lie in (0, 1)")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}; it must lie in (0, 1]")

    def decay(self, progress: float) -> float:
        """Returns `gamma` to the power of the number of passed milestones."""
        return self.gamma ** sum(progress >= milestone for milestone in self.milestones)
