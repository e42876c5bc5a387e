"""Rows by how often networks forget them while they train.

A row is looked at after every epoch, not when it is trained on. Rows never learnt come before all others.

Reference: Toneva et al. 2019, An Empirical Study of Example Forgetting during Deep Neural Network Learning (arXiv:1812.05159)
"""

from dataclasses import dataclass

from torch import Tensor

from pruneyard.workloads.data.selection import ByHardness, Pool, forgetting_events

__all__ = ["Forgetting"]


@dataclass(frozen=True, kw_only=True)
class Forgetting(ByHardness):
    """Times that a row right after an epoch was wrong after the next, summed over the scoring networks."""

    def hardness(self, pool: Pool) -> Tensor:
        return forgetting_events(pool)
