"""ReAct: energy after clipping activations at a quantile of all training activations.

OOD inputs tend to have a few very large activations; in-distribution inputs lose little by clipping.

Reference: Sun, Guo and Li 2021, ReAct: Out-of-distribution Detection With Rectified Activations (arXiv:2111.12797)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from pruneyard.workloads.calibrate.changed_network import ChangedNetwork
from pruneyard.workloads.calibrate.evidence import Evidence
from pruneyard.workloads.calibrate.score import Learned, Rule

__all__ = ["ReAct"]


@dataclass(frozen=True, kw_only=True)
class ReAct(Learned):
    """Score logsumexp(W min(h, c) + b)."""

    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"quantile": (0.85, 0.9, 0.95, 0.99)})

    quantile: float = 0.9  # fraction of training activations that is not clipped; at 1 the threshold is their maximum

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile is {self.quantile}; it must lie in (0, 1]")

    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        # One ceiling for all features.
        ceiling = float(np.quantile(train.features, self.quantile))

        return clipped(ceiling), {"ceiling": ceiling}


def clipped(ceiling: float) -> ChangedNetwork:
    """Returns the network with features clipped at `ceiling`."""
    return ChangedNetwork(change=lambda rows: np.minimum(rows, ceiling))
