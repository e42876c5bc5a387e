"""Deletion and insertion curves: how well attributions name the pixels that a network decides by.

Pixels are replaced by the mean input in the order of their attribution (deletion), or put back into an empty image in that order
(insertion), while the probability of the class predicted on the whole image is recorded. `deletion` and `insertion` are the areas
below these curves: a good attribution has a small first and a large second. `insertion_gain` is the area of insertion minus that
of a random order. Both areas also depend on how confident the network is, so compare networks with care.

Gradients and integrated gradients are a few lines on autograd here. captum computes them too, but it is not among the packages
that pruneyard needs, and would bring matplotlib.

Reference: Nourelahi et al. 2023, How explainable are adversarially-robust CNNs? (arXiv:2205.13042); curves as in Petsiuk, Das and
Saenko 2018, RISE (arXiv:1806.07421)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.areas import area
from pruneyard.workloads.probe.probe import BATCH_SIZE, Finding, Subject, check_max_samples
from pruneyard.workloads.probe.saliency import Attribution as Method
from pruneyard.workloads.probe.saliency import attribute, keep, places_kept
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.workload import CurvePoint

__all__ = ["Attribution"]

CURVES = ("deletion", "insertion", "insertion_random")


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """by: what ranks the pixels. num_steps: of the curves, and of integrated gradients. max_samples: test rows, evenly spread."""

    examples: ClassVar[tuple[Settings, ...]] = ({"max_samples": 30, "num_steps": 4},)
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    by: Method = "integrated_gradients"
    num_steps: int = 16
    max_samples: int | None = 500

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}; it must be 1 or more")
        check_max_samples(self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the areas below the curves on test rows."""
        (subject,) = subjects
        rows = subject.on_device(subject.split("test", self.max_samples))
        network = subject.network()
        curves = self._curves(network, rows, num_classes=subject.num_classes, seed=seed)
        areas = {name: area(values) for name, values in curves.items()}
        metrics = {("attribution", name): areas[name] for name in ("deletion", "insertion")}
        metrics["attribution", "insertion_gain"] = areas["insertion"] - areas["insertion_random"]
        points = [
            CurvePoint(name=name, step=1, key=self.by, x=place / self.num_steps, y=float(value), count=len(rows))
            for name, values in curves.items()
            for place, value in enumerate(values)
        ]
        return Finding(metrics=metrics, curves=tuple(points))

    def _curves(self, network: nn.Module, rows: DeviceSplit, *, num_classes: int, seed: int) -> dict[str, Tensor]:
        """Returns the mean probability at every share of the pixels, (num_steps + 1,), by name."""
        generator = stream(seed, "attribution")
        totals = {name: torch.zeros(self.num_steps + 1, dtype=torch.float64) for name in CURVES}
        for inputs, _ in rows.batches(BATCH_SIZE):
            with torch.no_grad():
                classes = network(inputs)[:, :num_classes].argmax(dim=1)
            ranked = attribute(network, inputs, classes, method=self.by, num_steps=self.num_steps, generator=generator)
            control = attribute(network, inputs, classes, method="random", num_steps=1, generator=generator)
            for place in range(self.num_steps + 1):
                share = place / self.num_steps
                kept = {
                    "deletion": ~places_kept(ranked, share),
                    "insertion": places_kept(ranked, share),
                    "insertion_random": places_kept(control, share),
                }
                for name, mask in kept.items():
                    totals[name][place] += _probability(network, keep(inputs, mask), classes, num_classes)
        return {name: total / len(rows) for name, total in totals.items()}


@torch.no_grad()
def _probability(network: nn.Module, inputs: Tensor, classes: Tensor, num_classes: int) -> float:
    """Returns the sum over rows of the probability of `classes`."""
    probabilities = network(inputs)[:, :num_classes].softmax(dim=1)
    return float(probabilities.gather(1, classes[:, None]).sum())
