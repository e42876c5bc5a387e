"""Solves A x = b for a curvature matrix A given as a product: by Cholesky if it is small, else by conjugate gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""Multiplies a symmetric matrix with each row of (K, P)."""


class CurvatureError(ArithmeticError):
    """The linear system cannot be solved; the message says which option to change."""


def solve_dense(product: Product, right: Tensor) -> Tensor:
    """Returns the solutions (K, P) for each row of `right: (K, P)`, by a Cholesky factorisation of the whole matrix.

    Raises `CurvatureError` if the matrix is not positive definite.
    """
    size = right.shape[1]
    matrix = product(torch.eye(size, dtype=right.dtype, device=right.device))
    # Rounding makes the product slightly asymmetric. `cholesky_ex` returns an error code, where `cholesky` would raise.
    factor, failed = torch.linalg.cholesky_ex((matrix + matrix.T) / 2)
    if int(failed):
        raise _indefinite()
    return torch.cholesky_solve(right.T, factor).T


def conjugate_gradients(
    product: Product,
    right: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    between: Callable[[], None] = lambda: None,
) -> Tensor:
    """Returns the solutions (K, P) for each row of `right: (K, P)` without building the matrix.

    Iterates until the norm of every residual is at most `tolerance` times that of its row of `right`. `between` is called
    after every iteration. Raises `CurvatureError` if a search direction shows that the matrix is not positive definite, or if
    `max_iterations` do not suffice.

    Reference: Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems (1952)
    """
    found, residual = torch.zeros_like(right), right.clone()
    direction, squares = residual.clone(), (residual**2).sum(dim=1)
    goal = tolerance**2 * squares
    active = squares > goal  # rows of zeros are already solved
    for _ in range(max_iterations):
        if not bool(active.any()):
            return found
        # Converged rows must not continue: at a residual of 0 the curvature is 0 as well, which would count as indefinite.
        rows = active.nonzero()[:, 0]
        along = direction[rows]
        image = product(along)
        curvature = (along * image).sum(dim=1)
        if bool((curvature <= 0).any()):
            raise _indefinite()
        step = (squares[rows] / curvature)[:, None]
        found[rows] += step * along
        residual[rows] -= step * image
        left = (residual[rows] ** 2).sum(dim=1)
        # The new direction uses the old squares, so they are replaced after it.
        direction[rows] = residual[rows] + (left / squares[rows])[:, None] * along
        squares[rows] = left
        active[rows] = left > goal[rows]
        between()
    if not bool(active.any()):
        return found
    # Rows of zeros have the goal 0; the clamp keeps 0 / 0 out of the maximum.
    worst = float((squares / goal.clamp(min=torch.finfo(goal.dtype).tiny)).max().sqrt() * tolerance)
    raise CurvatureError(
        f"after {max_iterations} iterations a residual is {worst:.1e} of its right-hand side; it must be at most {tolerance:g}: "
        "raise jackknife.damping, jackknife.max_iterations or jackknife.tolerance"
    )


def _indefinite() -> CurvatureError:
    return CurvatureError(
        "the Hessian of the training loss has a direction of negative curvature that jackknife.damping does not outweigh; "
        "raise it, train for longer, or take jackknife.curvature gauss_newton"
    )
