"""SCALE: energy after multiplying a row's activations by exp(their sum / sum of the largest); no pruning.

Activations must not be negative. With `prune` 0 every row is multiplied by e.

Reference: Xu, Chen, Franchi and Yao 2024, Scaling for Training Time and Post-hoc Out-of-distribution Detection (arXiv:2310.00227)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from pruneyard.workloads.calibrate.changed_network import ChangedNetwork
from pruneyard.workloads.calibrate.evidence import FEATURES, Evidence, Floats
from pruneyard.workloads.calibrate.score import Immediate
from pruneyard.workloads.calibrate.shaping import check_prune, growth, largest

__all__ = ["Scale"]


@dataclass(frozen=True, kw_only=True)
class Scale(Immediate):
    """Score logsumexp(W h exp(s1 / s2) + b)."""

    needs: ClassVar[frozenset[str]] = frozenset({FEATURES})
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"prune": (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)}
    )

    prune: float = 0.85  # fraction of a row's activations that s2 excludes

    def __post_init__(self) -> None:
        check_prune(self.prune)

    def of(self, evidence: Evidence) -> Floats:
        return self.rule(evidence)

    @property
    def rule(self) -> ChangedNetwork:
        return ChangedNetwork(change=self.shape, needs_positive=True)

    def shape(self, rows_ND: Floats) -> Floats:
        """Returns scaled activations (N, d) for the last layer; the input must not be negative."""
        return rows_ND * growth(rows_ND, largest(rows_ND, self.prune))
