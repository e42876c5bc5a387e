"""Negative Mahalanobis distance to the nearest class, plus the distance to one Gaussian of all training rows.

Distances in directions that no class uses (the background) cancel. Covariances are shrunk as in `mahalanobis`.

Reference: Ren et al. 2021, A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection (arXiv:2106.09022)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from pruneyard.workloads.calibrate.evidence import FEATURES, LABELS, Evidence, Floats
from pruneyard.workloads.calibrate.feature_statistics import (
    Ellipsoid,
    check_shrinkage,
    class_means,
    overall_mean,
    scatter,
)
from pruneyard.workloads.calibrate.score import Learned, Rule

__all__ = ["RelativeMahalanobis"]


@dataclass(frozen=True, kw_only=True)
class RelativeMahalanobis(Learned):
    """Score max_k -(h - m_k)' S^-1 (h - m_k) + (h - m_0)' S_0^-1 (h - m_0)."""

    learns_from: ClassVar[frozenset[str]] = frozenset({FEATURES, LABELS})
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"shrinkage": (1e-6, 1e-4, 1e-2)})

    shrinkage: float = 1e-4  # of both covariances

    def __post_init__(self) -> None:
        check_shrinkage(self.shrinkage)

    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        labels = train.class_labels
        means = class_means(train.features, labels, train.num_classes)
        mean = overall_mean(train.features)[None]
        within = Ellipsoid.of(scatter(train.features, means, labels), shrinkage=self.shrinkage)
        around = Ellipsoid.of(scatter(train.features, mean), shrinkage=self.shrinkage)

        def rule(evidence: Evidence) -> Floats:
            to_all = around.squared_distances(evidence.features, mean)[:, 0]
            return np.asarray(to_all - within.squared_distances(evidence.features, means).min(axis=1))

        return rule, {}
