"""Node networks: the protocol of their plug-ins, and the layers that all of them share."""

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.nodes.graph import GraphTensors

Mix = Callable[[GraphTensors, Tensor], Tensor]
"""Combines the values `(N, K)` of several nodes: a graph convolution averages neighbours."""


class NodeModel(Protocol):
    """Protocol of a frozen dataclass in `workloads/nodes/models`."""

    def build(self, *, num_features: int, num_classes: int) -> nn.Module:
        """Returns a new network that maps `GraphTensors` to logits (N, num_classes) of all nodes.

        Its weights come from torch's global generator, which the caller seeds.
        """
        ...


class NodeNetwork(nn.Module):
    """Linear layers with ReLU and dropout between them. Each output is mixed over nodes before the bias is added."""

    def __init__(self, widths: list[int], *, dropout: float, mix: Mix) -> None:
        super().__init__()
        self.mix, self.dropout = mix, dropout
        self.weights = nn.ParameterList(torch.empty(pair) for pair in pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(width) for width in widths[1:])
        for weight in self.weights:
            nn.init.xavier_uniform_(weight)

    def forward(self, graph: GraphTensors) -> Tensor:
        """Returns logits (N, C)."""
        # A (X W) and not (A X) W: the narrow product first, and the features stay sparse.
        hidden: Tensor = self.mix(graph, graph.features @ self.weights[0]) + self.biases[0]
        for weight, bias in zip(list(self.weights)[1:], list(self.biases)[1:], strict=True):
            hidden = functional.dropout(hidden.relu(), self.dropout, self.training)
            hidden = self.mix(graph, hidden @ weight) + bias
        return hidden


def check_sizes(width: int, depth: int, dropout: float) -> None:
    """Raises `ValueError` for an invalid width, depth or dropout rate."""
    for name, value in (("width", width), ("depth", depth)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in [0, 1)")
