"""The Gauss-Newton curvature J^T B J: J the derivative of the labelled nodes' logits, B the loss's curvature in them."""

from collections.abc import Callable

import torch
from torch import Tensor

from pruneyard.workloads.nodes.flat import BATCH, gradients_of_each

Logits = Callable[[Tensor], Tensor]
"""Logits (n, C) of the labelled nodes at parameters (P,)."""

Parts = Callable[[Tensor], Tensor]
"""Each node's part (n,) of the loss, of its own row of logits (n, C)."""


def curvature_in_logits(parts: Parts, at: Tensor) -> Tensor:
    """(n, C, C), of the loss in each row of logits `at: (n, C)`; negative eigenvalues are taken for 0."""
    gradient = torch.func.grad(lambda logits: parts(logits).sum())
    columns = [
        torch.func.grad(lambda logits, column=column: gradient(logits)[:, column].sum())(at)
        for column in range(at.shape[1])
    ]
    blocks = torch.stack(columns, dim=2)
    values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
    squared: Tensor = vectors @ (values.clamp(min=0)[..., None] * vectors.mT)
    return squared


def gauss_newton_products(logits: Logits, parts: Parts, at: Tensor, directions: Tensor) -> Tensor:
    """(K, P), the curvature at parameters `at: (P,)` times each of `directions: (K, P)`; no matrix is built."""
    found, backward = torch.func.vjp(logits, at)[:2]
    blocks = curvature_in_logits(parts, found)

    forward = torch.func.vjp(lambda slopes: backward(slopes)[0], torch.zeros_like(found))[
        1
    ]  # J^T, transposed again

    def product(direction: Tensor) -> Tensor:
        return backward((blocks @ forward(direction)[0][..., None])[..., 0])[0]  # type: ignore[no-any-return]

    products: Tensor = torch.func.vmap(product, chunk_size=BATCH)(directions)
    return products


def solve_by_rows(logits: Logits, parts: Parts, at: Tensor, *, diagonal: float) -> Tensor:
    """(n, P): (J^T B J + diagonal)^-1 times the gradient of each node's part, exact, by a matrix of the size of B.

    Gradients are J^T r, and (J^T B J + d)^-1 J^T = J^T (B J J^T + d)^-1.
    """
    found = logits(at)
    num, classes = found.shape
    jacobian = gradients_of_each(lambda vector: logits(vector).reshape(-1), at)
    blocks = curvature_in_logits(parts, found)
    gram = (jacobian @ jacobian.T).view(num, classes, -1)
    system = (blocks @ gram).view(num * classes, -1)
    system.diagonal().add_(diagonal)
    slopes = gradients_of_each(lambda flat: parts(flat.view_as(found)), found.reshape(-1))
    solved: Tensor = torch.linalg.solve(system, slopes.T).T @ jacobian
    return solved
