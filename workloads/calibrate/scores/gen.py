"""GEN, generalised entropy: minus the sum of (p (1 - p))^gamma over the `top` most probable classes.

A small gamma gives weight to small probabilities, which separates confident rows with several alternatives from those without.

Reference: Liu, Lochman and Zach 2023, GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection (CVPR 2023)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from scipy.special import logsumexp

from pruneyard.workloads.calibrate.evidence import LOGITS, Evidence, Floats
from pruneyard.workloads.calibrate.score import Immediate

__all__ = ["GEN"]


@dataclass(frozen=True, kw_only=True)
class GEN(Immediate):
    """Score -sum_k (p_k (1 - p_k))^gamma."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"gamma": (0.01, 0.1, 0.5, 1.0), "top": (10, 100)}
    )

    gamma: float = 0.1
    top: int = 100  # number of most probable classes; all classes if there are fewer

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}; it must lie in (0, 1]")
        if self.top < 1:
            raise ValueError(f"top is {self.top}; it must be 1 or more")

    def of(self, evidence: Evidence) -> Floats:
        logs, complements = log_probabilities(evidence.logits.astype(np.float64), evidence.num_classes)
        most = np.argsort(-logs, axis=1, kind="stable")[:, : self.top]
        terms = np.take_along_axis(logs + complements, most, axis=1)
        return np.asarray(-np.exp(self.gamma * terms).sum(axis=1))


def log_probabilities(outputs: Floats, num_classes: int) -> tuple[Floats, Floats]:
    """Returns log p and log(1 - p) of the classes, (N, K) each, for outputs (N, C); accurate where p rounds to 1."""
    rows = np.arange(len(outputs))
    largest = outputs[:, :num_classes].argmax(axis=1)
    apart = outputs - outputs[rows, largest][:, None]
    apart[rows, largest] = -np.inf
    # The logarithm of sum over all others / largest: it has all its digits where 1 - p is 0.
    others = logsumexp(apart, axis=1)
    apart[rows, largest] = 0
    total = np.logaddexp(0, others)
    logs = apart[:, :num_classes] - total[:, None]
    complements = np.zeros_like(logs)
    # log(1 - p) of the largest, without computing 1 - p.
    complements[rows, largest] = others - total
    below = np.ones_like(logs, dtype=bool)
    below[rows, largest] = False
    complements[below] = np.log1p(-np.exp(logs[below]))  # of at most 1/2
    return logs, complements
