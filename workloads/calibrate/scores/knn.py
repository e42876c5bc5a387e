"""KNN: negative squared distance to the k-th nearest training row, with features scaled to unit length.

The search is exact: every row is compared with the whole bank, in blocks of bounded memory. A row of zero features has no
direction; it stays 0, at distance 1 from every other row.

Reference: Sun, Ming, Zhu and Li 2022, Out-of-Distribution Detection with Deep Nearest Neighbors (arXiv:2204.06507)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from pruneyard.workloads.calibrate.evidence import AsGiven, Evidence, Floats, blocks
from pruneyard.workloads.calibrate.score import Learned, Rule
from pruneyard.workloads.fields import renamed
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.seeding import stream_seed

__all__ = ["KNN"]

DISTANCES_AT_ONCE = 2**23  # 64 MiB


@dataclass(frozen=True, kw_only=True)
class KNN(Learned):
    """Score -|h / |h| - k-th nearest row of the bank|^2."""

    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"k": (50, 100, 200, 500, 1000)})
    examples: ClassVar[tuple[Settings, ...]] = ({"k": 3},)

    k: int = 50
    # of the training rows, sampled at random, in the bank; reduce k with it
    train_fraction: float = field(default=1.0, metadata=renamed("share"))

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; it must be 1 or more")
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"train_fraction is {self.train_fraction}; it must lie in (0, 1]")

    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        num_kept = max(round(self.train_fraction * len(train)), 1)
        if self.k > num_kept:
            raise ValueError(f"k is {self.k}; it must be at most {num_kept}, the number of training rows in the bank")
        generator = np.random.default_rng(stream_seed(seed, "calibrate/knn"))
        # From the start of one permutation, so a larger share contains the bank of a smaller one.
        kept = np.sort(generator.permutation(len(train))[:num_kept])
        bank = unit_length(train.features[kept])

        def rule(evidence: Evidence) -> Floats:
            return -kth_squared_distance(unit_length(evidence.features), bank, self.k)

        return rule, {"bank": float(num_kept)}


def unit_length(features: AsGiven) -> Floats:
    """Returns rows divided by their Euclidean norm, as float64; rows of zeros stay zero."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0))


def kth_squared_distance(
    rows: Floats, bank: Floats, k: int, *, distances_at_once: int = DISTANCES_AT_ONCE
) -> Floats:
    """Returns squared distances (N,) of every row (N, d) to its k-th nearest row of the bank (M, d)."""
    of_bank = (bank**2).sum(axis=1)
    found = np.empty(len(rows))
    for block in blocks(len(rows), max(distances_at_once // len(bank), 1)):
        # Without |row|^2, which does not change the order of a row's distances; it is added to the k-th only.
        squares = of_bank - 2 * rows[block] @ bank.T
        nearest = np.partition(squares, k - 1, axis=1)[:, k - 1]
        # The difference of squares may round below 0.
        found[block] = np.maximum(nearest + (rows[block] ** 2).sum(axis=1), 0)
    return found
