"""Rank features at random: the control of every other ranking.

Reference: the neutral member
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.features.ranker import untrained_progress
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.workload import Context, Progress

__all__ = ["Random"]


@dataclass(frozen=True, kw_only=True)
class Random:
    """A random order that depends on the seed of the job."""

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns (0.0, 0)."""
        return 0.0, 0

    def rank(self, data: Dataset, *, seed: int, context: Context) -> Iterator[Progress]:
        """See `pruneyard.workloads.features.ranker.FeatureRanker`."""
        started = time.monotonic()
        strength = torch.randperm(*data.image_shape, generator=stream(seed, "rank-features")).numpy()
        yield untrained_progress(strength, wall_s=time.monotonic() - started)
