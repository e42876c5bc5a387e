"""Selects real images such that none of a class is far from the nearest one, in features (k-center, greedy).

Reference: Sener and Savarese 2018, Active Learning for CNNs: A Core-Set Approach (arXiv:1708.00489)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import k_center
from pruneyard.workloads.distill.selected import SelectionDistiller

__all__ = ["KCenter"]


@dataclass(frozen=True, kw_only=True)
class KCenter(SelectionDistiller, k_center.KCenter):
    """Selects images as `pruneyard.workloads.data.selectors.k_center` does."""
