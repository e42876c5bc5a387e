"""Random real images of each class: what every synthetic set is held against.

Reference: the baseline of Zhao, Mopuri and Bilen 2021, Dataset Condensation with Gradient Matching (arXiv:2006.05929)
"""

from dataclasses import dataclass

from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.starting import Distilled
from pruneyard.workloads.distill.work import Scene

__all__ = ["Random"]


@dataclass(frozen=True, kw_only=True)
class Random(Distilled):
    """Draws and does nothing."""

    @property
    def num_iterations(self) -> int:
        """None."""
        return 0

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """Never called."""
        raise AssertionError("a random set has no iterations")

    def flops(self, iterations: int, scene: Scene) -> float:
        """Drawing is no work of a network."""
        return 0.0
