"""Selects rows by how often networks forget them during training.

A row is evaluated after every epoch, not when it is trained on. Rows that are never learned rank as the hardest.

Reference: Toneva et al. 2019, An Empirical Study of Example Forgetting during Deep Neural Network Learning (arXiv:1812.05159)
"""

from dataclasses import dataclass

from torch import Tensor

from pruneyard.workloads.data.selection import HardnessSelector, Pool, forgetting_events

__all__ = ["Forgetting"]


@dataclass(frozen=True, kw_only=True)
class Forgetting(HardnessSelector):
    """Selects by how often a row was correct after one epoch and wrong after the next, summed over the scoring networks."""

    def hardness(self, pool: Pool) -> Tensor:
        return forgetting_events(pool)
