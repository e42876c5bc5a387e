"""Fails on one rank only, while the other waits for it."""

import os
from dataclasses import dataclass

from foreign_plugins.patient import Patient

__all__ = ["Lopsided"]

FAILS_AT = 7


@dataclass(frozen=True, kw_only=True)
class Lopsided(Patient):
    """A process alone, or rank 0, takes the rate; rank 1 raises."""

    def factor(self, step: int, num_steps: int) -> float:
        if step == FAILS_AT and os.environ.get("RANK") == "1":
            raise RuntimeError("rank 1 alone <cannot> go on")
        return super().factor(step, num_steps)
