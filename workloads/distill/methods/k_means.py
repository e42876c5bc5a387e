"""Selects the real images nearest to the centres of k-means clusters of their class in feature space.

Reference: the embedding baseline of Cui et al. 2022, DC-BENCH (arXiv:2207.09639)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import k_means
from pruneyard.workloads.distill.selected import SelectionDistiller

__all__ = ["KMeans"]


@dataclass(frozen=True, kw_only=True)
class KMeans(SelectionDistiller, k_means.KMeans):
    """Selects images as `pruneyard.workloads.data.selectors.k_means` does."""
