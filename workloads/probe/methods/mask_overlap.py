"""How many active weights two finished networks share, for every pair of a population.

The Jaccard index of two masks is the number of weights that are active in both, divided by those active in at least one; here
over all prunable weights together. `jaccard_chance` is that of random masks with the same density in every layer, in the limit
of large layers. The curve `mask_overlap` is the matrix: `key` is the run of the row, `x` the number of the column's run in the
order of the keys of the diagonal.

Reference: Liu et al. 2020, Topological Insights into Sparse Neural Networks (arXiv:2006.14085), which measures the distance of
masks otherwise, by edits; the index itself is Jaccard 1912, The Distribution of the Flora in the Alpine Zone
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from pruneyard.workloads.probe.probe import Finding, Subject
from pruneyard.workloads.workload import CurvePoint

__all__ = ["MaskOverlap"]


@dataclass(frozen=True, kw_only=True)
class MaskOverlap:
    """A weight without a mask counts as active."""

    fewest_runs: ClassVar[int] = 2
    most_runs: ClassVar[int | None] = None
    reads_data: ClassVar[bool] = False

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the mean, smallest and largest index over pairs, and the matrix.

        Raises `ValueError` for networks whose prunable weights differ in names or shapes.
        """
        masks = [subject.masks for subject in subjects]
        for subject, found in zip(subjects, masks, strict=True):
            if _shapes(found) != _shapes(masks[0]):
                first = subjects[0].run.run_key
                raise ValueError(f"{subject.run.run_key} has other prunable weights than {first}; compare runs of one model")
        matrix = np.eye(len(masks))
        chance = []
        for (i, one), (j, other) in itertools.combinations(enumerate(masks), 2):
            matrix[i, j] = matrix[j, i] = jaccard(one, other)
            chance.append(jaccard_of_random(one, other))
        pairs = matrix[np.triu_indices(len(masks), k=1)]
        values = {
            "jaccard": pairs.mean(),
            "jaccard_lowest": pairs.min(),
            "jaccard_highest": pairs.max(),
            "jaccard_chance": np.mean(chance),
        }
        metrics = {("weights", name): float(value) for name, value in values.items()}
        return Finding(metrics=metrics, curves=tuple(_points(subjects, matrix)))


def _shapes(masks: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(mask.shape) for name, mask in masks.items()}


def jaccard(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Returns the Jaccard index of two sets of masks; 1 for two sets without active weights."""
    both = sum(int((one[name] & other[name]).sum()) for name in one)
    either = sum(int((one[name] | other[name]).sum()) for name in one)
    return both / either if either else 1.0


def jaccard_of_random(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Returns the index of the expected counts of independent uniform masks with the densities of these, layer by layer."""
    counts = [(int(one[name].sum()), int(other[name].sum()), one[name].numel()) for name in one]
    both = sum(first * second / size for first, second, size in counts)
    total = sum(first + second for first, second, _ in counts)
    return both / (total - both) if total else 1.0


def _points(subjects: Sequence[Subject], matrix: np.ndarray) -> list[CurvePoint]:
    return [
        CurvePoint(name="mask_overlap", step=1, key=subject.run.run_key, x=float(column), y=float(value), count=1)
        for subject, row in zip(subjects, matrix, strict=True)
        for column, value in enumerate(row)
    ]
