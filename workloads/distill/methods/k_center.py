"""Real images such that none of their class is far from the nearest one taken, in features (k-center, greedy).

Reference: Sener and Savarese 2018, Active Learning for CNNs: A Core-Set Approach (arXiv:1708.00489)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import k_center
from pruneyard.workloads.distill.selected import Selected

__all__ = ["KCenter"]


@dataclass(frozen=True, kw_only=True)
class KCenter(Selected, k_center.KCenter):
    """The rule is that of `pruneyard.workloads.data.selectors.k_center`."""
