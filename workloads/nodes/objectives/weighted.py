"""Weighted cross-entropy: a minority node has a larger weight than a majority node.

Reference: CALIRARE (arXiv 2307.09858), released code: weights proportional to 1 and 1 / ratio, 5.4 in its Cora example
"""

from dataclasses import dataclass

from torch import Tensor

from pruneyard.workloads.nodes.node_objective import check_ratio, weighted_entropies

__all__ = ["Weighted"]


@dataclass(frozen=True, kw_only=True)
class Weighted:
    ratio: float = 5.4  # weight of a minority node / weight of another

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def contributions(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `pruneyard.workloads.nodes.node_objective.NodeObjective`."""
        return weighted_entropies(logits, labels, ratio=self.ratio)
