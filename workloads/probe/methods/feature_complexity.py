"""How early in a finished network its features can be read off linearly: complex features only in late layers.

The features are the inputs of the last layer. A feature is predicted from the inputs of each layer by ridge regression, fitted
on half of the rows; the information is the share of its variance explained on the other half, at least 0. The complexity of a
feature is 1 minus the mean of that over all layers before the last. `complexity` is the mean over features, and
`complexity_importance` the rank correlation of the complexity with the importance, the deviation of a feature times the mean
magnitude of its weights in the last layer; the paper finds it negative. Features that do not vary are left out. The curve
`feature_information` has the mean over features for each layer, `feature_complexity` each feature.

Only the abstract was read. Unverified: linear predictors as the family V, explained variance as the information, the mean over
layers, single units as features instead of a dictionary of directions, and the importance.

Reference: Fel et al. 2024, Understanding Visual Feature Reliance through the Lens of Complexity (arXiv:2407.06076)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.stats import spearmanr
from torch import Tensor

from pruneyard.workloads.networks.last_layer import last_layer_name
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.activations import layer_inputs
from pruneyard.workloads.probe.probe import Finding, Subject
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.workload import CurvePoint

__all__ = ["FeatureComplexity"]


@dataclass(frozen=True, kw_only=True)
class FeatureComplexity:
    """ridge: weight of the penalty, relative to the mean variance of the layer's inputs. max_inputs: of a layer, above which they
    are projected at random. max_samples: test rows, evenly spread; left out: all.
    """

    examples: ClassVar[tuple[Settings, ...]] = ({"max_inputs": 16},)
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    ridge: float = 0.01
    max_inputs: int = 512
    max_samples: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ridge < math.inf:
            raise ValueError(f"ridge is {self.ridge}; it must be above 0")
        if self.max_inputs < 1:
            raise ValueError(f"max_inputs is {self.max_inputs}; it must be 1 or more")
        if self.max_samples is not None and self.max_samples < 4:
            raise ValueError(f"max_samples is {self.max_samples}; it must be 4 or more, two for each half")

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the complexity.

        Raises `ValueError` for a network without features or hidden layers, or whose features do not vary.
        """
        (subject,) = subjects
        network = subject.network()
        inputs = layer_inputs(network, subject.on_device(subject.split("test", self.max_samples)))
        features = inputs.pop(last_layer_name(network)).double()
        if not inputs:
            raise ValueError(f"{subject.run.run_key} has no hidden layer, so its features are its inputs")
        varies = features.std(dim=0) > 1e-6
        if not varies.any():
            raise ValueError(f"no feature of {subject.run.run_key} varies")
        found = torch.stack([information(self._reduced(each, seed), features[:, varies], self.ridge) for each in inputs.values()])
        complexity = 1 - found.mean(dim=0)  # (F,)
        weight = network.get_parameter(f"{last_layer_name(network)}.weight").detach().cpu().double()[:, varies]
        importance = features[:, varies].std(dim=0) * weight.abs().mean(dim=0)
        metrics = {("features", "complexity"): float(complexity.mean())}
        if len(complexity) > 2 and complexity.std() > 0 and importance.std() > 0:
            correlation = float(spearmanr(complexity.numpy(), importance.numpy()).statistic)
            metrics["features", "complexity_importance"] = correlation
        numbers = torch.nonzero(varies).flatten().tolist()
        return Finding(metrics=metrics, curves=tuple(_points(list(inputs), found, numbers, len(features))))

    def _reduced(self, inputs: Tensor, seed: int) -> Tensor:
        """Returns the inputs (N, F) of a layer, projected at random if they are more than `max_inputs`."""
        if inputs.shape[1] <= self.max_inputs:
            return inputs.double()
        generator = stream(seed, "feature_complexity")
        projection = torch.randn(inputs.shape[1], self.max_inputs, generator=generator, dtype=torch.float64)
        return inputs.double() @ projection / math.sqrt(self.max_inputs)


def information(inputs: Tensor, features: Tensor, ridge: float) -> Tensor:
    """Returns the share of the variance of every feature that a linear map of the inputs explains on held-out rows, (F,).

    inputs: (N, D), features: (N, F). Even rows fit the map, odd rows judge it.
    """
    mean, target_mean = inputs[::2].mean(dim=0), features[::2].mean(dim=0)
    centred, targets = inputs[::2] - mean, features[::2] - target_mean
    gram = centred.T @ centred
    penalty = ridge * gram.diagonal().mean().clamp(min=1e-12)
    gram.diagonal().add_(penalty)
    weights = torch.linalg.solve(gram, centred.T @ targets)
    left = features[1::2] - target_mean - (inputs[1::2] - mean) @ weights
    around = features[1::2] - features[1::2].mean(dim=0)
    explained: Tensor = 1 - left.square().sum(dim=0) / around.square().sum(dim=0).clamp(min=1e-12)
    return explained.clamp(0, 1)


def _points(layers: list[str], found: Tensor, numbers: list[int], count: int) -> list[CurvePoint]:
    by_layer = [
        CurvePoint(name="feature_information", step=1, key=layer, x=float(place), y=float(values.mean()), count=count)
        for place, (layer, values) in enumerate(zip(layers, found, strict=True))
    ]
    return by_layer + [
        CurvePoint(name="feature_complexity", step=1, key="features", x=float(number), y=1 - float(values.mean()), count=count)
        for number, values in zip(numbers, found.T, strict=True)
    ]
