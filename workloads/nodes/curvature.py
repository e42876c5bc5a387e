"""Solves A x = b for a curvature A, known by its products: with the matrix where it is small, by conjugate gradients above."""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix times each row of (K, P)."""


class CurvatureError(ArithmeticError):
    """A system that has no solution of the kind asked for; the message says what to change."""


def solve_dense(product: Product, right: Tensor) -> Tensor:
    """x (K, P) of each row of `right: (K, P)`, by Cholesky's factors of the whole matrix.

    Raises `CurvatureError` where the matrix is not positive definite.
    """
    size = right.shape[1]
    matrix = product(torch.eye(size, dtype=right.dtype, device=right.device))
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
    """The same without the matrix: until every residual is at most `tolerance` of its row of `right`.

    `between` is called after every iteration. Raises `CurvatureError` where a direction of the search shows the matrix not to
    be positive definite, or where `max_iterations` do not suffice.

    Reference: Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems (1952)
    """
    found, residual = torch.zeros_like(right), right.clone()
    direction, squares = residual.clone(), (residual**2).sum(dim=1)
    goal = tolerance**2 * squares
    active = squares > goal  # rows of zeros are solved already
    for _ in range(max_iterations):
        if not bool(active.any()):
            return found
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
        direction[rows] = residual[rows] + (left / squares[rows])[:, None] * along
        squares[rows] = left
        active[rows] = left > goal[rows]
        between()
    if not bool(active.any()):
        return found
    worst = float((squares / goal.clamp(min=torch.finfo(goal.dtype).tiny)).max().sqrt() * tolerance)
    raise CurvatureError(
        f"after {max_iterations} iterations a residual is {worst:.1e} of its right side; it must be at most {tolerance:g}: "
        "raise jackknife.damping, jackknife.max_iterations or jackknife.tolerance"
    )


def _indefinite() -> CurvatureError:
    return CurvatureError(
        "the Hessian of the training loss has a direction of negative curvature that jackknife.damping does not outweigh; "
        "raise it, train for longer, or take jackknife.curvature gauss_newton"
    )
