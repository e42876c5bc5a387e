"""Log-density of the features, in nats, under one Gaussian fitted to all training rows regardless of class.

The simplest feature density, and the background model of `relative_mahalanobis`. The covariance is shrunk as in `mahalanobis`.

Reference: Ren et al. 2021, A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection (arXiv:2106.09022)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from pruneyard.workloads.calibrate.evidence import Evidence, Floats
from pruneyard.workloads.calibrate.feature_statistics import Ellipsoid, check_shrinkage, overall_mean, scatter
from pruneyard.workloads.calibrate.score import Learned, Rule

__all__ = ["Gaussian"]


@dataclass(frozen=True, kw_only=True)
class Gaussian(Learned):
    """Score log N(h; m_0, S_0)."""

    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"shrinkage": (1e-6, 1e-4, 1e-2)})

    shrinkage: float = 1e-4

    def __post_init__(self) -> None:
        check_shrinkage(self.shrinkage)

    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        mean = overall_mean(train.features)[None]
        shape = Ellipsoid.of(scatter(train.features, mean), shrinkage=self.shrinkage)
        constant = shape.log_determinant + mean.size * math.log(2 * math.pi)

        def rule(evidence: Evidence) -> Floats:
            return -(shape.squared_distances(evidence.features, mean)[:, 0] + constant) / 2

        return rule, {"log_determinant": shape.log_determinant}
