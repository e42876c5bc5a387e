"""All training images: what every smaller set is held against.

Give the evaluation a `max_steps`: as many epochs as a small set takes would be long.

Reference: the whole-set rows of Zhao, Mopuri and Bilen 2021, Dataset Condensation with Gradient Matching (arXiv:2006.05929)
"""

from dataclasses import dataclass

import torch

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distiller import DistillState, Lab
from pruneyard.workloads.distill.selected import real_images
from pruneyard.workloads.distill.work import Scene

__all__ = ["Whole"]


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Keeps everything, and stores nothing: the images are those of the data."""

    @property
    def ipc(self) -> None:
        """No number of ours: classes have what they have."""

    @property
    def num_iterations(self) -> int:
        """None."""
        return 0

    def start(self, lab: Lab) -> DistillState:
        """Nothing to remember."""
        return DistillState()

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """Never called."""
        raise AssertionError("the whole set has no iterations")

    def synthetic_set(self, state: DistillState, lab: Lab) -> SyntheticSet:
        """Class after class."""
        return real_images(torch.cat(lab.real.rows_of_class).to(lab.device), lab)

    def flops(self, iterations: int, scene: Scene) -> float:
        """Nothing is computed."""
        return 0.0
