"""Learning rate: constant after the warm-up.

Reference: Goyal et al. 2017, Accurate, Large Minibatch SGD (arXiv:1706.02677), for the warm-up
"""

from dataclasses import dataclass

from pruneyard.workloads.schedules._warmup import Warmup

__all__ = ["Constant"]


@dataclass(frozen=True, kw_only=True)
class Constant(Warmup):
    """The base rate throughout."""

    def decay(self, progress: float) -> float:
        """Returns 1."""
        return 1.0
