"""The exponent of the heavy tail of each layer's spectrum, from submatrices of one aspect ratio (FARMS).

A smaller exponent is a heavier tail. A weight matrix is covered by submatrices of a fixed aspect ratio; the squared singular
values of all of them together are the averaged spectrum, whose tail the Hill estimator fits. `tail_exponent` is the mean over
layers, `tail_exponent_whole` that of the whole matrices, which depends on their shapes. The curve `tail_exponent` has a point
for each layer. Layers whose shorter side is below `min_side` are left out; masked weights are zeros of the matrix.

Only the abstract was read. Unverified: the aspect ratio of 1, windows that cover the matrix evenly, kernels flattened with
the inputs, and the Hill estimator on half of the values.

Reference: Hu et al. 2025, Eigenspectrum Analysis of Neural Networks without Aspect Ratio Bias (FARMS, arXiv:2506.06280)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.probe import Finding, Subject
from pruneyard.workloads.probe.spectra import eigenvalues, hill_exponent, windows
from pruneyard.workloads.workload import CurvePoint

__all__ = ["HeavyTail"]


@dataclass(frozen=True, kw_only=True)
class HeavyTail:
    """aspect: longer by shorter side of the submatrices. tail: share of the values that the estimator takes as the tail."""

    revision: ClassVar[int] = 2  # before, rounding noise entered the spectrum of matrices that lack full rank
    examples: ClassVar[tuple[Settings, ...]] = ({"min_side": 4}, {"aspect": 2.0, "tail": 0.2, "min_side": 4})
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = False

    aspect: float = 1.0
    tail: float = 0.5
    min_side: int = 8  # layers with a shorter side below this are left out

    def __post_init__(self) -> None:
        if not 1 <= self.aspect < math.inf:
            raise ValueError(f"aspect is {self.aspect}; it must be 1 or more")
        if not 0 < self.tail <= 1:
            raise ValueError(f"tail is {self.tail}; it must lie in (0, 1]")
        if self.min_side < 2:
            raise ValueError(f"min_side is {self.min_side}; it must be 2 or more")

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the exponents. Raises `ValueError` if no layer is large enough."""
        (subject,) = subjects
        matrices = {name: _matrix(weight) for name, weight in subject.weights.items()}
        large = {name: matrix for name, matrix in matrices.items() if min(matrix.shape) >= self.min_side}
        if not large:
            shapes = ", ".join(f"{name} {tuple(matrix.shape)}" for name, matrix in matrices.items())
            raise ValueError(f"min_side is {self.min_side}, and no layer is so large: {shapes}")
        averaged = {name: self._averaged(matrix) for name, matrix in large.items()}
        exponents = {name: hill_exponent(values, self.tail) for name, values in averaged.items()}
        whole = [hill_exponent(eigenvalues(matrix), self.tail) for matrix in large.values()]
        metrics = {
            ("weights", "tail_exponent"): float(np.nanmean(list(exponents.values()))),
            ("weights", "tail_exponent_whole"): float(np.nanmean(whole)),
        }
        return Finding(metrics=metrics, curves=tuple(_points(exponents, averaged)))

    def _averaged(self, matrix: Tensor) -> Tensor:
        """Returns the values of all submatrices together."""
        return torch.cat([eigenvalues(part) for part in windows(matrix, self.aspect)])


def _matrix(weight: Tensor) -> Tensor:
    """Returns (outputs, inputs times kernel)."""
    return weight.flatten(1)


def _points(exponents: dict[str, float], averaged: dict[str, Tensor]) -> list[CurvePoint]:
    return [
        CurvePoint(name="tail_exponent", step=1, key=name, x=float(place), y=value, count=len(averaged[name]))
        for place, (name, value) in enumerate(exponents.items())
        if math.isfinite(value)
    ]
