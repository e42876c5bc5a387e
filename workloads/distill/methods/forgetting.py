"""Selects real images by how often networks forget them during training.

Reference: Toneva et al. 2019, An Empirical Study of Example Forgetting during Deep Neural Network Learning (arXiv:1812.05159)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import forgetting
from pruneyard.workloads.distill.selected import SelectionDistiller

__all__ = ["Forgetting"]


@dataclass(frozen=True, kw_only=True)
class Forgetting(SelectionDistiller, forgetting.Forgetting):
    """Selects images as `pruneyard.workloads.data.selectors.forgetting` does."""
