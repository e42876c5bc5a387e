"""Keeps all training images, the upper baseline of all smaller sets.

Set `max_steps` of the evaluation: the number of epochs of a small set would take too long.

Reference: the whole-set rows of Zhao, Mopuri and Bilen 2021, Dataset Condensation with Gradient Matching (arXiv:2006.05929)
"""

from dataclasses import dataclass

import torch

from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.flop_counting import ProblemSize
from pruneyard.workloads.distill.selected import real_images

__all__ = ["Whole"]


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The whole training set. It is not stored again, as the images are those of the data."""

    @property
    def ipc(self) -> None:
        """None, because classes may differ in their number of images."""

    @property
    def num_iterations(self) -> int:
        """Always 0."""
        return 0

    def start(self, context: DistillContext) -> DistillState:
        """Returns an empty state."""
        return DistillState()

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Raises `AssertionError`: the set is complete at the start."""
        raise AssertionError("the whole set has no iterations")

    def synthetic_set(self, state: DistillState, context: DistillContext) -> SyntheticSet:
        """Returns all training images, class after class."""
        return real_images(torch.cat(context.real.rows_of_class).to(context.device), context)

    def flops(self, iterations: int, problem: ProblemSize) -> float:
        """Returns 0, as no network computes anything."""
        return 0.0
