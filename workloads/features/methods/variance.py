"""Rank features by their variance over the training rows, in units of the data.

The features of a table have different units, so the ranking means something only where all have the same one, as pixels have.

Reference: He, Cai and Niyogi 2005, Laplacian Score for Feature Selection (NIPS), which compares with it
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.features.ranker import untrained_progress
from pruneyard.workloads.workload import Context, Progress

__all__ = ["Variance"]


@dataclass(frozen=True, kw_only=True)
class Variance:
    """The variance of each feature."""

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns (0.0, 0)."""
        return 0.0, 0

    def rank(self, data: Dataset, *, seed: int, context: Context) -> Iterator[Progress]:
        """See `pruneyard.workloads.features.ranker.FeatureRanker`."""
        started = time.monotonic()
        strength = data.train.images.var(axis=0, dtype=np.float64)
        yield untrained_progress(strength, wall_s=time.monotonic() - started)
