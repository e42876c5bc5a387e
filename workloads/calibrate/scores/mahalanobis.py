"""Negative squared Mahalanobis distance to the nearest class mean, with one covariance for all classes.

Means and covariance (around the class means) are those of the training rows; last hidden layer only, without input
perturbation. The covariance S is shrunk to (1 - s) S + s (tr S / d) I, because features often have directions of almost no
variance, which would otherwise dominate.

Reference: Lee, Lee, Lee and Shin 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples (arXiv:1807.03888)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from pruneyard.workloads.calibrate.evidence import FEATURES, LABELS, Evidence, Floats
from pruneyard.workloads.calibrate.feature_statistics import Ellipsoid, check_shrinkage, class_means, scatter
from pruneyard.workloads.calibrate.score import Learned, Rule

__all__ = ["Mahalanobis"]


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Learned):
    """Score max_k -(h - m_k)' S^-1 (h - m_k)."""

    learns_from: ClassVar[frozenset[str]] = frozenset({FEATURES, LABELS})
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"shrinkage": (1e-6, 1e-4, 1e-2)})

    shrinkage: float = 1e-4  # 0: covariance unchanged; 1: Euclidean distances

    def __post_init__(self) -> None:
        check_shrinkage(self.shrinkage)

    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        labels = train.class_labels
        means = class_means(train.features, labels, train.num_classes)
        shape = Ellipsoid.of(scatter(train.features, means, labels), shrinkage=self.shrinkage)

        def rule(evidence: Evidence) -> Floats:
            nearest: Floats = shape.squared_distances(evidence.features, means).min(axis=1)
            return -nearest

        return rule, {}
