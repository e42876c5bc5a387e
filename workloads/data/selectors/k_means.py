"""Rows nearest to the centres of k-means clusters of their class, in features.

Reference: the embedding baseline of Cui et al. 2022, DC-BENCH (arXiv:2207.09639); clusters start as in Arthur and Vassilvitskii
2007, k-means++ (SODA)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.data.selection import FEATURES, ByClass, Pool

__all__ = ["KMeans"]


@dataclass(frozen=True, kw_only=True)
class KMeans(ByClass):
    """As many clusters as rows are wanted of a class."""

    iterations: int = 50  # of Lloyd, at most

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 0:
            raise ValueError(f"iterations is {self.iterations}; it must be 0 or more")

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({FEATURES})

    def of_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        points = pool.features - pool.features.mean(0)
        centres = starting_centres(points, count, generator)
        for _ in range(self.iterations):
            moved = means(points, squared(points, centres).argmin(1), centres)
            if torch.equal(moved, centres):
                break
            centres = moved
        distances, chosen = squared(points, centres), []
        for centre in range(count):  # each centre takes a row of its own
            chosen.append(distances[:, centre].argmin())
            distances[chosen[-1]] = torch.inf
        return torch.stack(chosen)


def squared(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances (N, K) of points (N, F) and centres (K, F)."""
    own, theirs = points.square().sum(1), centres.square().sum(1)
    return (own[:, None] + theirs - 2 * (points @ centres.T)).clamp(min=0)


def starting_centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points drawn one by one in proportion to their squared distance from the nearest one drawn before: (count, F)."""
    weights, rows = torch.ones(len(points), device=points.device), []
    for draw in torch.rand(count, generator=generator).tolist():
        sums = (weights if weights.any() else torch.ones_like(weights)).double().cumsum(0)
        rows.append(int(torch.searchsorted(sums, draw * sums[-1:], right=True).clamp(max=len(points) - 1)))
        fresh = squared(points, points[rows[-1:]])[:, 0]
        weights = fresh if len(rows) == 1 else torch.minimum(weights, fresh)
        weights[rows] = 0.0
    return points[rows]


def means(points: Tensor, clusters: Tensor, before: Tensor) -> Tensor:
    """The mean of every cluster, (K, F); one without points stays where it was."""
    counts = torch.bincount(clusters, minlength=len(before))[:, None]
    sums = torch.zeros_like(before).index_add_(0, clusters, points)
    return torch.where(counts > 0, sums / counts.clamp(min=1), before)
