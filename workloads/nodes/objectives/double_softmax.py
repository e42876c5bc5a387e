"""Weighted cross-entropy that treats probabilities as logits, as in CALIRARE's released code.

The released network applies softmax, and its loss applies it again, so no loss falls below
log(1 + e^-1) = 0.313, however confident the network is.

Reference: CALIRARE (arXiv 2307.09858), released code
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.nodes.node_objective import check_ratio, weighted_entropies

__all__ = ["DoubleSoftmax"]


@dataclass(frozen=True, kw_only=True)
class DoubleSoftmax:
    ratio: float = 5.4  # weight of a minority node / weight of another

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def contributions(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `pruneyard.workloads.nodes.node_objective.NodeObjective`."""
        return weighted_entropies(functional.softmax(logits, dim=1), labels, ratio=self.ratio)
