"""Small graphs, and networks over them in float64 at the minimum of their loss."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pruneyard.workloads.nodes.flat import FlatNetwork
from pruneyard.workloads.nodes.graph import Graph, GraphTensors
from pruneyard.workloads.nodes.models.gcn import GCN
from pruneyard.workloads.nodes.node_network import NodeModel
from pruneyard.workloads.nodes.node_objective import NodeObjective
from pruneyard.workloads.nodes.sources.block_model import BlockModel
from pruneyard.workloads.seeding import global_stream

CPU = torch.device("cpu")


def small_graph(num_nodes: int = 80, *, seed: int = 0) -> Graph:
    """Returns a graph of two classes, with a quarter of the nodes in the rare one, and six words."""
    return BlockModel(
        num_nodes=num_nodes, num_classes=2, minority_fraction=0.25, words_per_class=3, seed=seed
    ).load()


@dataclass(frozen=True, kw_only=True)
class PenalizedNetwork:
    """A network, its weights and its penalised loss. train: node ids; labels: their labels, 1 = rare."""

    flat: FlatNetwork
    train: Tensor
    labels: Tensor
    objective: NodeObjective
    l2: float
    vector: Tensor  # (P,)

    def logits(self, vector: Tensor) -> Tensor:
        return self.flat.logits(vector)[self.train]

    def contributions(self, logits: Tensor) -> Tensor:
        return self.objective.contributions(logits, self.labels)

    def loss(self, vector: Tensor) -> Tensor:
        return self.contributions(self.logits(vector)).sum() + self.l2 / 2 * (vector**2).sum()

    def without(self, k: int, *, weight: float = 0.0) -> Tensor:
        """Returns (P,): retrained from these weights with another weight of node k; the other nodes keep theirs."""
        kept = torch.ones(len(self.train), dtype=torch.float64)
        kept[k] = weight
        return minimize_by_newton(
            lambda v: (kept * self.contributions(self.logits(v))).sum() + self.l2 / 2 * (v**2).sum(), self.vector
        )


def hessian(loss: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
    """Returns the Hessian of a scalar function, by automatic differentiation."""
    return torch.func.jacrev(torch.func.jacrev(loss))(vector)


def minimize_by_newton(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Returns the minimum of a convex function by Newton's method, up to rounding."""
    found = start.clone()
    for _ in range(50):
        gradient = torch.func.grad(loss)(found)
        if float(gradient.norm()) < 1e-13:
            break
        found = found - torch.linalg.solve(hessian(loss, found), gradient)
    assert float(torch.func.grad(loss)(found).norm()) < 1e-11
    return found


def minimize_by_adam(loss: Callable[[Tensor], Tensor], start: Tensor, *, steps: int) -> Tensor:
    """Returns a point near a minimum of any function, by Adam with a rate that decays to zero."""
    vector = start.clone().requires_grad_()
    solver = torch.optim.Adam([vector], lr=0.03)
    rate = torch.optim.lr_scheduler.LinearLR(solver, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        solver.zero_grad()
        loss(vector).backward()
        solver.step()
        rate.step()
    return vector.detach()


def untrained(
    model: NodeModel, objective: NodeObjective, *, num_train: int = 30, l2: float = 0.01, seed: int = 0
) -> PenalizedNetwork:
    """Returns a network at its initialisation, on the first nodes of a small graph."""
    graph = small_graph(seed=seed)
    with global_stream(seed, "init"):
        network = model.build(num_features=graph.num_features, num_classes=2).double().eval()
    flat = FlatNetwork(network=network, graph=GraphTensors.of(graph, device=CPU, dtype=torch.float64))
    return PenalizedNetwork(
        flat=flat,
        train=torch.arange(num_train),
        labels=torch.from_numpy((graph.labels[:num_train] == 0).astype(np.int64)),
        objective=objective,
        l2=l2,
        vector=flat.vector().detach(),
    )


def fitted_logistic_regression(
    objective: NodeObjective, *, num_train: int = 30, l2: float = 0.01, seed: int = 0
) -> PenalizedNetwork:
    """Returns logistic regression on features averaged over neighbours, at its minimum."""
    start = untrained(GCN(depth=1), objective, num_train=num_train, l2=l2, seed=seed)
    return replace(start, vector=minimize_by_newton(start.loss, start.vector))
