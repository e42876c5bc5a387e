"""Fails on one rank only, while the other waits for it."""

import os
from dataclasses import dataclass

from foreign_plugins.slow_cosine import SlowCosine

__all__ = ["FailingRank"]

FAILS_AT = 7


@dataclass(frozen=True, kw_only=True)
class FailingRank(SlowCosine):
    """Rank 1 raises at step `FAILS_AT`; rank 0, or a single process, trains on."""

    def factor(self, step: int, num_steps: int) -> float:
        if step == FAILS_AT and os.environ.get("RANK") == "1":
            raise RuntimeError("rank 1 alone <cannot> go on")
        return super().factor(step, num_steps)
