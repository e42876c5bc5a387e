"""Selects the rows nearest to the centres of k-means clusters of their class in feature space.

Reference: the embedding baseline of Cui et al. 2022, DC-BENCH (arXiv:2207.09639); clusters start as in Arthur and Vassilvitskii
2007, k-means++ (SODA)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import FEATURES, ClasswiseSelector, Pool

__all__ = ["KMeans"]


@dataclass(frozen=True, kw_only=True)
class KMeans(ClasswiseSelector):
    """Selects one row per cluster; a class has as many clusters as rows are needed of it."""

    iterations: int = 50  # maximum number of Lloyd iterations

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 0:
            raise ValueError(f"iterations is {self.iterations}; it must be 0 or more")

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({FEATURES})

    def select_in_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        # Centred, because the differences of squares in `squared_distances` lose digits far from the origin.
        points = pool.features - pool.features.mean(0)
        centres = k_means_plus_plus(points, count, generator)
        for _ in range(self.iterations):
            updated = cluster_means(points, squared_distances(points, centres).argmin(1), centres)
            if torch.equal(updated, centres):
                break
            centres = updated
        distances, chosen = squared_distances(points, centres), []
        for centre in range(count):  # two centres never select the same row
            chosen.append(distances[:, centre].argmin())
            distances[chosen[-1]] = torch.inf
        return torch.stack(chosen)


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Returns the squared distances (N, K) between points (N, F) and centres (K, F)."""
    point_squares, centre_squares = points.square().sum(1), centres.square().sum(1)
    return (point_squares[:, None] + centre_squares - 2 * (points @ centres.T)).clamp(min=0)


def k_means_plus_plus(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Samples initial centres (count, F) from the points, in proportion to the squared distance to the nearest earlier one."""
    weights, rows = torch.ones(len(points), device=points.device), []
    for uniform in torch.rand(count, generator=generator).tolist():
        # All weights are 0 if all rows equal a chosen one; any row is then as good as another.
        sums = (weights if weights.any() else torch.ones_like(weights)).double().cumsum(0)
        # `right=True` skips rows of weight 0, whose sums equal their predecessor's; the clamp is against rounding at the end.
        rows.append(int(torch.searchsorted(sums, uniform * sums[-1:], right=True).clamp(max=len(points) - 1)))
        distances = squared_distances(points, points[rows[-1:]])[:, 0]
        weights = distances if len(rows) == 1 else torch.minimum(weights, distances)
        # Rounding could leave chosen rows a small distance to themselves.
        weights[rows] = 0.0
    return points[rows]


def cluster_means(points: Tensor, clusters: Tensor, before: Tensor) -> Tensor:
    """Returns the mean of every cluster, (K, F); a cluster without points keeps its centre of `before`."""
    counts = torch.bincount(clusters, minlength=len(before))[:, None]
    sums = torch.zeros_like(before).index_add_(0, clusters, points)
    return torch.where(counts > 0, sums / counts.clamp(min=1), before)
