"""Learning rate: constant after the warm-up."""

from dataclasses import dataclass

from pruneyard.workloads.schedules._warmup import Warmup

__all__ = ["Constant"]


@dataclass(frozen=True, kw_only=True)
class Constant(Warmup):
    """The base rate throughout."""

    def decay(self, progress: float) -> float:
        """Always 1."""
        return 1.0
