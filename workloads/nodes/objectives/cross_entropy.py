"""Mean cross-entropy with equal weight for every labelled node.

Reference: Kipf and Welling, Semi-supervised classification with graph convolutional networks (ICLR 2017)
"""

from dataclasses import dataclass

from torch import Tensor

from pruneyard.workloads.nodes.node_objective import weighted_entropies

__all__ = ["NodeCrossEntropy"]


@dataclass(frozen=True, kw_only=True)
class NodeCrossEntropy:
    def contributions(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `pruneyard.workloads.nodes.node_objective.NodeObjective`."""
        return weighted_entropies(logits, labels, ratio=1.0)
