"""A cosine schedule that allocates more memory than its node has, in the middle of its training."""

import os
from dataclasses import dataclass

import numpy as np

from pruneyard.workloads.schedules.cosine import Cosine

__all__ = ["MemoryHog"]

CHUNK = 2**27  # bytes


@dataclass(frozen=True, kw_only=True)
class MemoryHog(Cosine):
    """Holds `$HOG_BYTES` bytes from step 20 to the end of its process."""

    def factor(self, step: int, num_steps: int) -> float:
        if step == 20:
            _HELD.extend(np.ones(CHUNK, dtype=np.uint8) for _ in range(int(os.environ["HOG_BYTES"]) // CHUNK))
        return super().factor(step, num_steps)


_HELD: list[np.ndarray] = []
