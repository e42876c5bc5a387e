"""Real images by how often networks forget them while they train.

Reference: Toneva et al. 2019, An Empirical Study of Example Forgetting during Deep Neural Network Learning (arXiv:1812.05159)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import forgetting
from pruneyard.workloads.distill.selected import Selected

__all__ = ["Forgetting"]


@dataclass(frozen=True, kw_only=True)
class Forgetting(Selected, forgetting.Forgetting):
    """The rule is that of `pruneyard.workloads.data.selectors.forgetting`."""
