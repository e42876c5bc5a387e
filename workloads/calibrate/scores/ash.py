"""ASH: energy after pruning small activations and keeping (p), filling (b) or scaling (s) the rest.

b sets the kept activations to one value that preserves the row's sum; s multiplies them by exp(sum before / sum after).
Activations must not be negative. Without pruning, p equals `energy`.

Reference: Djurisic et al. 2023, Extremely Simple Activation Shaping for Out-of-Distribution Detection (arXiv:2209.09858)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from pruneyard.workloads.calibrate.changed_network import ChangedNetwork
from pruneyard.workloads.calibrate.evidence import FEATURES, Evidence, Floats
from pruneyard.workloads.calibrate.score import Immediate
from pruneyard.workloads.calibrate.shaping import check_prune, growth, largest

__all__ = ["ASH"]


@dataclass(frozen=True, kw_only=True)
class ASH(Immediate):
    """Score logsumexp(W shaped(h) + b)."""

    needs: ClassVar[frozenset[str]] = frozenset({FEATURES})
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"prune": (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)}
    )

    variant: Literal["b", "p", "s"] = "b"
    prune: float = 0.9  # fraction of a row's activations that is pruned

    def __post_init__(self) -> None:
        if self.variant not in ("b", "p", "s"):
            raise ValueError(f"variant is {self.variant!r}; it must be b, p or s")
        check_prune(self.prune)

    def of(self, evidence: Evidence) -> Floats:
        return self.rule(evidence)

    @property
    def rule(self) -> ChangedNetwork:
        return ChangedNetwork(change=self.shape, needs_positive=True)

    def shape(self, rows_ND: Floats) -> Floats:
        """Returns shaped activations (N, d) for the last layer; the input must not be negative."""
        kept = largest(rows_ND, self.prune)
        match self.variant:
            case "p":
                return np.where(kept, rows_ND, 0)
            case "b":
                # `largest` keeps at least one activation, so nothing is divided by 0.
                return np.where(kept, rows_ND.sum(axis=1, keepdims=True) / kept.sum(axis=1, keepdims=True), 0)
            case "s":
                return np.where(kept, rows_ND, 0) * growth(rows_ND, kept)
