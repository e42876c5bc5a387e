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


def tiny(num_nodes: int = 80, *, seed: int = 0) -> Graph:
    """Two classes, a quarter of the nodes in the rare one, six words."""
    return BlockModel(
        num_nodes=num_nodes, num_classes=2, minority_fraction=0.25, words_per_class=3, seed=seed
    ).load()


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A network at a minimum of its penalised loss. train: node ids; labels: theirs, 1 = rare."""

    flat: FlatNetwork
    train: Tensor
    labels: Tensor
    objective: NodeObjective
    l2: float
    at: Tensor  # (P,)

    def logits(self, vector: Tensor) -> Tensor:
        return self.flat.logits(vector)[self.train]

    def parts(self, logits: Tensor) -> Tensor:
        return self.objective.contributions(logits, self.labels)

    def loss(self, vector: Tensor) -> Tensor:
        return self.parts(self.logits(vector)).sum() + self.l2 / 2 * (vector**2).sum()

    def without(self, k: int, *, weight: float = 0.0) -> Tensor:
        """Returns (P,): retrained from here with this weight of node k; all other weights of nodes are as before."""
        kept = torch.ones(len(self.train), dtype=torch.float64)
        kept[k] = weight
        return minimum(
            lambda v: (kept * self.parts(self.logits(v))).sum() + self.l2 / 2 * (v**2).sum(), self.at
        )


def hessian(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Of a scalar function, by automatic differentiation alone."""
    return torch.func.jacrev(torch.func.jacrev(loss))(at)


def minimum(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Of a convex function, by Newton's method: where the gradient has vanished but for rounding."""
    found = start.clone()
    for _ in range(50):
        gradient = torch.func.grad(loss)(found)
        if float(gradient.norm()) < 1e-13:
            break
        found = found - torch.linalg.solve(hessian(loss, found), gradient)
    assert float(torch.func.grad(loss)(found).norm()) < 1e-11
    return found


def descended(loss: Callable[[Tensor], Tensor], start: Tensor, *, steps: int) -> Tensor:
    """Near a minimum of any function: Adam, its rate falling to nothing."""
    vector = start.clone().requires_grad_()
    solver = torch.optim.Adam([vector], lr=0.03)
    rate = torch.optim.lr_scheduler.LinearLR(solver, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        solver.zero_grad()
        loss(vector).backward()
        solver.step()
        rate.step()
    return vector.detach()


def begun(
    model: NodeModel, objective: NodeObjective, *, num_train: int = 30, l2: float = 0.01, seed: int = 0
) -> Fitted:
    """At its initialisation, on the first nodes of a tiny graph."""
    graph = tiny(seed=seed)
    with global_stream(seed, "init"):
        network = model.build(num_features=graph.num_features, num_classes=2).double().eval()
    flat = FlatNetwork(network=network, graph=GraphTensors.of(graph, device=CPU, dtype=torch.float64))
    return Fitted(
        flat=flat,
        train=torch.arange(num_train),
        labels=torch.from_numpy((graph.labels[:num_train] == 0).astype(np.int64)),
        objective=objective,
        l2=l2,
        at=flat.vector().detach(),
    )


def convex(objective: NodeObjective, *, num_train: int = 30, l2: float = 0.01, seed: int = 0) -> Fitted:
    """Logistic regression on features averaged over neighbours, at its minimum."""
    start = begun(GCN(depth=1), objective, num_train=num_train, l2=l2, seed=seed)
    return replace(start, at=minimum(start.loss, start.at))
