"""Fails on one rank only, while the other waits for it."""

import os
from dataclasses import dataclass
from threading import Event

from foreign_plugins.slow_cosine import SlowCosine

__all__ = ["FailingRank"]

FAILS_AT = 7
SEEN_FOR_S = 6  # so that a test that looks at both ranks sees them while their process group exists


@dataclass(frozen=True, kw_only=True)
class FailingRank(SlowCosine):
    """Rank 1 waits at step `FAILS_AT` and raises; rank 0, or a single process, trains on."""

    def factor(self, step: int, num_steps: int) -> float:
        if step == FAILS_AT and os.environ.get("RANK") == "1":
            Event().wait(SEEN_FOR_S)
            raise RuntimeError("rank 1 alone <cannot> go on")
        return super().factor(step, num_steps)
