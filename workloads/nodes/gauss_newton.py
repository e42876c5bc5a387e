"""Products and solves with the Gauss-Newton matrix J^T B J: J the Jacobian of the training nodes' logits, B the Hessian of
the loss with respect to these logits."""

from collections.abc import Callable

import torch
from torch import Tensor

from pruneyard.workloads.nodes.flat import BATCH, gradients_of_each

Logits = Callable[[Tensor], Tensor]
"""Logits (n, C) of the labelled nodes at parameters (P,)."""

Parts = Callable[[Tensor], Tensor]
"""Each node's part (n,) of the loss, from its own row of logits (n, C)."""


def curvature_in_logits(parts: Parts, at: Tensor) -> Tensor:
    """Returns the Hessians (n, C, C) of the loss for each row of logits `at: (n, C)`; negative eigenvalues become 0."""
    # A part depends on its own row only, so the gradient of the sum contains the gradients of all parts.
    gradient = torch.func.grad(lambda logits: parts(logits).sum())
    columns = [
        torch.func.grad(lambda logits, column=column: gradient(logits)[:, column].sum())(at)
        for column in range(at.shape[1])
    ]
    blocks = torch.stack(columns, dim=2)
    # Objectives such as `focal` and `double_softmax` are not convex in the logits; negative eigenvalues would cost the matrix
    # its definiteness, on which the solvers rely.
    values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
    squared: Tensor = vectors @ (values.clamp(min=0)[..., None] * vectors.mT)
    return squared


def gauss_newton_products(logits: Logits, parts: Parts, at: Tensor, directions: Tensor) -> Tensor:
    """Returns the products (K, P) of the matrix at parameters `at: (P,)` with `directions: (K, P)`, without building it."""
    found, backward = torch.func.vjp(logits, at)[:2]
    blocks = curvature_in_logits(parts, found)

    # `jvp` would need a forward-mode rule, which the product of `SparseConstant` lacks.
    forward = torch.func.vjp(lambda slopes: backward(slopes)[0], torch.zeros_like(found))[
        1
    ]  # J^T, transposed again

    def product(direction: Tensor) -> Tensor:
        return backward((blocks @ forward(direction)[0][..., None])[..., 0])[0]  # type: ignore[no-any-return]

    products: Tensor = torch.func.vmap(product, chunk_size=BATCH)(directions)
    return products


def solve_by_rows(logits: Logits, parts: Parts, at: Tensor, *, diagonal: float) -> Tensor:
    """Returns (J^T B J + diagonal)^-1 times the gradient of each node's part, (n, P), exactly, with a matrix of the size of B.

    Gradients are J^T r, and the solution uses the identity (J^T B J + d)^-1 J^T = J^T (B J J^T + d)^-1.
    """
    found = logits(at)
    num, classes = found.shape
    jacobian = gradients_of_each(lambda vector: logits(vector).reshape(-1), at)
    blocks = curvature_in_logits(parts, found)
    # (n, C, n C), so that the blocks of B multiply the rows of their own node.
    gram = (jacobian @ jacobian.T).view(num, classes, -1)
    system = (blocks @ gram).view(num * classes, -1)
    system.diagonal().add_(diagonal)
    slopes = gradients_of_each(lambda flat: parts(flat.view_as(found)), found.reshape(-1))
    # B J J^T is not symmetric, so no Cholesky factorisation here.
    solved: Tensor = torch.linalg.solve(system, slopes.T).T @ jacobian
    return solved
