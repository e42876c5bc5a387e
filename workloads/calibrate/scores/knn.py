"""Squared distance to the k-th nearest training row, negated; features are scaled to length 1 before.

Exact: every row is compared with the whole bank, in blocks of bounded memory. A row whose features are all 0 has no direction; it
stays 0, at distance 1 from every other.

Reference: Sun, Ming, Zhu and Li 2022, Out-of-Distribution Detection with Deep Nearest Neighbors (arXiv:2204.06507)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from pruneyard.workloads.calibrate.evidence import AsGiven, Evidence, Floats, blocks
from pruneyard.workloads.calibrate.score import Learned, Rule
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.seeding import stream_seed

__all__ = ["KNN"]

DISTANCES_AT_ONCE = 2**23  # 64 MiB


@dataclass(frozen=True, kw_only=True)
class KNN(Learned):
    """-|h / |h| - its k-th nearest of the bank|^2."""

    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"k": (50, 100, 200, 500, 1000)})
    examples: ClassVar[tuple[Settings, ...]] = ({"k": 3},)

    k: int = 50
    share: float = 1.0  # of the training rows kept as the bank, drawn at random; k should shrink with it

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; it must be 1 or more")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it must lie in (0, 1]")

    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        num_kept = max(round(self.share * len(train)), 1)
        if self.k > num_kept:
            raise ValueError(f"k is {self.k}; it must be at most {num_kept}, the training rows kept")
        generator = np.random.default_rng(stream_seed(seed, "calibrate/knn"))
        kept = np.sort(generator.permutation(len(train))[:num_kept])
        bank = unit_length(train.features[kept])

        def rule(evidence: Evidence) -> Floats:
            return -kth_squared_distance(unit_length(evidence.features), bank, self.k)

        return rule, {"bank": float(num_kept)}


def unit_length(features: AsGiven) -> Floats:
    """Rows divided by their length, float64; rows of zeros stay so."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0))


def kth_squared_distance(
    rows: Floats, bank: Floats, k: int, *, distances_at_once: int = DISTANCES_AT_ONCE
) -> Floats:
    """(N,): of every row (N, d) to its k-th nearest of the bank (M, d)."""
    of_bank = (bank**2).sum(axis=1)
    found = np.empty(len(rows))
    for block in blocks(len(rows), max(distances_at_once // len(bank), 1)):
        squares = of_bank - 2 * rows[block] @ bank.T
        nearest = np.partition(squares, k - 1, axis=1)[:, k - 1]
        found[block] = np.maximum(nearest + (rows[block] ** 2).sum(axis=1), 0)
    return found
