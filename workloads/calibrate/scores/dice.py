"""DICE: energy with only those last-layer weights that contribute most to the outputs of training inputs.

The contribution of a weight is W_kj times the mean of feature j, ranked over all classes; among equals the first are kept.

Reference: Sun and Li 2022, DICE: Leveraging Sparsification for Out-of-Distribution Detection (arXiv:2111.09805)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from pruneyard.workloads.calibrate.changed_network import ChangedNetwork
from pruneyard.workloads.calibrate.evidence import Evidence
from pruneyard.workloads.calibrate.feature_statistics import overall_mean
from pruneyard.workloads.calibrate.score import Learned, Rule

__all__ = ["DICE"]


@dataclass(frozen=True, kw_only=True)
class DICE(Learned):
    """Score logsumexp((M * W) h + b), where M keeps the largest W_kj mean(h_j)."""

    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"drop": (0.1, 0.3, 0.5, 0.7, 0.9)})

    drop: float = 0.9  # fraction of the last layer's weights that is dropped

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is {self.drop}; it must lie in [0, 1)")

    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        weight, bias = train.class_layer
        contribution = weight * overall_mean(train.features)
        num_kept = max(weight.size - round(self.drop * weight.size), 1)
        # Flattened: one ranking over the weights of all classes.
        order = np.argsort(-contribution, axis=None, kind="stable")
        thinned = np.zeros_like(weight)
        thinned.flat[order[:num_kept]] = weight.flat[order[:num_kept]]

        return ChangedNetwork(change=lambda rows: rows, layer=(thinned, bias)), {"num_kept": float(num_kept)}
