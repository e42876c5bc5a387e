"""Focal loss: cross-entropy scaled by (1 - probability of the label)^gamma, which down-weights easy nodes.

Reference: Lin et al., Focal loss for dense object detection (ICCV 2017)
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.nodes.node_objective import check_ratio, weighted_entropies

__all__ = ["NodeFocal"]


@dataclass(frozen=True, kw_only=True)
class NodeFocal:
    gamma: float = 2.0  # 0 is the weighted cross-entropy
    ratio: float = 1.0  # weight of a minority node / weight of another

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ValueError(f"gamma is {self.gamma}; it must be 0 or more")
        check_ratio(self.ratio)

    def contributions(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `pruneyard.workloads.nodes.node_objective.NodeObjective`."""
        # With two classes, 1 - p(label) is the probability of the other class, which loses no digits near 0.
        other = functional.softmax(logits, dim=1).gather(1, (1 - labels)[:, None])[:, 0]
        return other**self.gamma * weighted_entropies(logits, labels, ratio=self.ratio)
