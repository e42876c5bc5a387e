"""A node network as a function of one parameter vector, and its Hessian-vector products and per-node gradients."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneyard.workloads.nodes.graph import GraphTensors

BATCH = 64  # vectors per chunk; bounds memory and changes rounding only


@dataclass(frozen=True, kw_only=True)
class FlatNetwork:
    """A network in evaluation mode and its graph. A vector (P,) holds all parameters in the network's own order."""

    network: nn.Module
    graph: GraphTensors

    def vector(self) -> Tensor:
        """Returns the current parameters as one differentiable vector (P,)."""
        return torch.cat([parameter.reshape(-1) for parameter in self.network.parameters()])

    def logits(self, vector: Tensor) -> Tensor:
        """Returns the logits (N, C) of all nodes at these parameters."""
        named = dict(self.network.named_parameters())
        parts = vector.split([parameter.numel() for parameter in named.values()])
        shaped = {name: part.view_as(own) for (name, own), part in zip(named.items(), parts, strict=True)}
        found: Tensor = torch.func.functional_call(self.network, shaped, (self.graph,))
        return found

    def logits_of_each(self, vectors: Tensor, nodes: Tensor) -> Tensor:
        """Returns the logits (K, M, C) of M nodes at each of `vectors: (K, P)`."""
        found: Tensor = torch.func.vmap(lambda vector: self.logits(vector)[nodes], chunk_size=BATCH)(vectors)
        return found


def hessian_products(loss: Callable[[Tensor], Tensor], at: Tensor, directions: Tensor) -> Tensor:
    """Returns the products (K, P) of the Hessian of `loss` at `at: (P,)` with `directions: (K, P)`, without the matrix."""
    # Reverse mode twice, because the product of `SparseConstant` has no rule for forward mode.
    gradient = torch.func.grad(loss)

    def product(direction: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(lambda vector: gradient(vector) @ direction)(at)
        return found

    products: Tensor = torch.func.vmap(product, chunk_size=BATCH)(directions)
    return products


def gradients_of_each(parts: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Returns the gradients (n, P) at `at: (P,)` of each of the n numbers that `parts` returns."""
    values, backward = torch.func.vjp(parts, at)[:2]
    # Each row of the identity picks one of the n numbers; the forward pass is shared.
    picks = torch.eye(len(values), dtype=values.dtype, device=values.device)
    (found,) = torch.func.vmap(backward, chunk_size=BATCH)(picks)
    return found  # type: ignore[no-any-return]
