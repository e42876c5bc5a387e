"""Selects random real images of each class, the baseline of all synthetic sets.

Reference: the baseline of Zhao, Mopuri and Bilen 2021, Dataset Condensation with Gradient Matching (arXiv:2006.05929)
"""

from dataclasses import dataclass

from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.flop_counting import ProblemSize
from pruneyard.workloads.distill.initial_images import ImageDistiller

__all__ = ["Random"]


@dataclass(frozen=True, kw_only=True)
class Random(ImageDistiller):
    """Random images that are not changed."""

    @property
    def num_iterations(self) -> int:
        """Always 0."""
        return 0

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Raises `AssertionError`: the set is complete at the start."""
        raise AssertionError("a random set has no iterations")

    def flops(self, iterations: int, problem: ProblemSize) -> float:
        """Returns 0, as no network computes anything."""
        return 0.0
