"""Information of a network's layers about label and input, after lossy compression, with noise.

The inputs of each layer are projected onto their first principal components, scaled to a mean variance of 1, and Gaussian noise
of deviation `noise` is added, as in a stochastic network. The density of the sum is then a mixture of Gaussians around the
rows, whose entropy is a mean over samples of it. I(X; T) is that entropy minus the noise's, and I(Y; T) that entropy minus the
mean entropy within classes; both are in nats. The first is at most log N for N rows. Metrics are those of the features, the
inputs of the last layer; the curves `information_input` and `information_label` have all layers.

Only the abstract was read. Unverified: principal components as the compression, noise on the compressed values instead of in
every layer, and the estimator, which is that of the cited method.

Reference: Butakov et al. 2024, Information Bottleneck Analysis of Deep Neural Networks via Lossy Compression
(arXiv:2305.08013); the noisy network after Goldfeld et al. 2019, Estimating Information Flow in Deep Neural Networks
(arXiv:1810.05728)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.activations import layer_inputs
from pruneyard.workloads.probe.probe import Finding, Subject
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.workload import CurvePoint

__all__ = ["InformationPlane"]


@dataclass(frozen=True, kw_only=True)
class InformationPlane:
    """num_components: kept of every layer. noise: deviation, where the components have a mean variance of 1."""

    examples: ClassVar[tuple[Settings, ...]] = ({"max_samples": 60},)
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    num_components: int = 4
    noise: float = 0.3
    max_samples: int = 1000  # training rows, evenly spread; memory grows with their square

    def __post_init__(self) -> None:
        if self.num_components < 1:
            raise ValueError(f"num_components is {self.num_components}; it must be 1 or more")
        if not 0 < self.noise < math.inf:
            raise ValueError(f"noise is {self.noise}; it must be above 0")
        if self.max_samples < 2:
            raise ValueError(f"max_samples is {self.max_samples}; it must be 2 or more")

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the two informations of the features, and of every layer as curves."""
        (subject,) = subjects
        rows = subject.on_device(subject.split("train", self.max_samples))
        labels = rows.labels.cpu()
        curves, found = [], {}
        for place, (layer, inputs) in enumerate(layer_inputs(subject.network(), rows).items()):
            found = self._informations(inputs.double(), labels, seed=seed)
            curves += [
                CurvePoint(name=name, step=1, key=layer, x=float(place), y=value, count=len(labels))
                for name, value in found.items()
            ]
        return Finding(metrics={("features", name): value for name, value in found.items()}, curves=tuple(curves))

    def _informations(self, inputs: Tensor, labels: Tensor, *, seed: int) -> dict[str, float]:
        points = compressed(inputs, self.num_components)
        draws = torch.randn(points.shape, generator=stream(seed, "information_plane"), dtype=points.dtype)
        return {
            "information_input": information_input(points, self.noise, draws),
            "information_label": information_label(points, labels, self.noise, draws),
        }


def compressed(inputs: Tensor, num_components: int) -> Tensor:
    """Returns the first principal components of inputs (N, F), scaled to a mean variance of 1: (N, d)."""
    centred = inputs - inputs.mean(dim=0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    num = min(num_components, len(sizes))
    points: Tensor = left[:, :num] * sizes[:num]
    scale = points.square().mean().sqrt()
    return points / scale if scale > 0 else points


def entropy(points: Tensor, noise: float, draws: Tensor) -> float:
    """Returns the entropy in nats of the mixture of Gaussians around points (N, d), from one sample of each Gaussian.

    draws: standard normal numbers (N, d).
    """
    num, dimensions = points.shape
    squares = torch.cdist(points + noise * draws, points).square()
    logs = torch.logsumexp(-squares / (2 * noise**2), dim=1) - math.log(num) - dimensions / 2 * math.log(2 * math.pi * noise**2)
    return -float(logs.mean())


def entropy_of_noise(dimensions: int, noise: float) -> float:
    """Returns the entropy of a Gaussian in nats."""
    return dimensions / 2 * (1 + math.log(2 * math.pi * noise**2))


def information_input(points: Tensor, noise: float, draws: Tensor) -> float:
    """Returns I(X; T) in nats."""
    return entropy(points, noise, draws) - entropy_of_noise(points.shape[1], noise)


def information_label(points: Tensor, labels: Tensor, noise: float, draws: Tensor) -> float:
    """Returns I(Y; T) in nats."""
    within = 0.0
    for label in labels.unique():
        rows = labels == label
        within += float(rows.double().mean()) * entropy(points[rows], noise, draws[rows])
    return entropy(points, noise, draws) - within
