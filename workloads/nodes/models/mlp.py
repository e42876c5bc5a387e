"""Multilayer perceptron on each node's own features; equals a GCN on a graph without edges.

Reference: Shchur et al., Pitfalls of graph neural network evaluation, arXiv 1811.05868, where it is the baseline
"""

from dataclasses import dataclass

from torch import nn

from pruneyard.workloads.nodes.node_network import NodeNetwork, check_sizes

__all__ = ["NodeMlp"]


@dataclass(frozen=True, kw_only=True)
class NodeMlp:
    width: int = 16  # of hidden layers
    depth: int = 2  # number of layers; 1 is logistic regression
    dropout: float = 0.5  # rate for hidden values, in training only

    def __post_init__(self) -> None:
        check_sizes(self.width, self.depth, self.dropout)

    def build(self, *, num_features: int, num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.nodes.node_network.NodeModel`."""
        widths = [num_features, *[self.width] * (self.depth - 1), num_classes]
        return NodeNetwork(widths, dropout=self.dropout, mix=lambda graph, values: values)
