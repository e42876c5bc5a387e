"""Trace and largest eigenvalue of the training loss's Hessian, and the rise of the loss nearby.

Derivatives are by the active weights, biases and norm parameters, in evaluation mode and float32; masked weights stay zero.
`hessian_trace` is the mean of Hutchinson's samples and `hessian_trace_se` its standard error; `hessian_top` is found by power
iteration. `sharpness` is the loss after one step of length `radius` along the gradient, minus the loss: the first-order
approximation of the largest rise within the ball.

These are landscape metrics of the phases of Yang et al. 2021 (arXiv:2107.11228), which the zoo covers. Unverified: which of
them the zoo stores; only its abstract was read.

Reference: Schürholt et al. 2025, A Model Zoo on Phase Transitions in Neural Networks (arXiv:2504.18072); sharpness as in Foret et
al. 2021 (arXiv:2010.01412)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.hessian import MeanLoss, inner, largest_eigenvalue, trace_samples
from pruneyard.workloads.probe.probe import Finding, Subject, check_max_samples
from pruneyard.workloads.workload import CurvePoint

__all__ = ["Curvature"]


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """num_samples: of the trace. num_iterations: of the power iteration. max_samples: training rows, evenly spread."""

    examples: ClassVar[tuple[Settings, ...]] = ({"num_samples": 2, "num_iterations": 3, "max_samples": 40},)
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    num_samples: int = 20
    num_iterations: int = 20
    radius: float = 0.05
    max_samples: int | None = 1000

    def __post_init__(self) -> None:
        if self.num_samples < 2:
            raise ValueError(f"num_samples is {self.num_samples}; it must be 2 or more, for a standard error")
        if self.num_iterations < 1:
            raise ValueError(f"num_iterations is {self.num_iterations}; it must be 1 or more")
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius is {self.radius}; it must be above 0")
        check_max_samples(self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the curvature of the loss on training rows."""
        (subject,) = subjects
        rows = subject.on_device(subject.split("train", self.max_samples))
        loss = MeanLoss(
            network=subject.network(), rows=rows, masks=subject.finished.masks, num_classes=subject.num_classes
        )
        samples = trace_samples(loss, self.num_samples, seed=seed)
        values = {
            "hessian_trace": float(np.mean(samples)),
            "hessian_trace_se": float(np.std(samples, ddof=1) / math.sqrt(len(samples))),
            "hessian_top": largest_eigenvalue(loss, num_iterations=self.num_iterations, seed=seed),
            "sharpness": sharpness(loss, self.radius),
        }
        curves = tuple(
            CurvePoint(name="hessian_trace", step=1, key="samples", x=float(place), y=sample, count=len(rows))
            for place, sample in enumerate(samples)
        )
        return Finding(metrics={("curvature", name): value for name, value in values.items()}, curves=curves)


def sharpness(loss: MeanLoss, radius: float) -> float:
    """Returns the rise of the loss after a step of length `radius` along the gradient; 0 where the gradient vanishes."""
    gradient = loss.gradient()
    norm = inner(gradient, gradient) ** 0.5
    if norm == 0:
        return 0.0
    moved = {
        name: parameter + radius / norm * part for (name, parameter), part in zip(loss.parameters.items(), gradient, strict=True)
    }
    return loss.value(moved) - loss.value(loss.parameters)
