"""Adam and LAMB as pure functions: they take a value and its moments and return new ones."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Running means of a gradient and of its square, each of the value's shape."""

    first: Tensor
    second: Tensor

    @classmethod
    def zero(cls, value: Tensor) -> "Moments":
        """Returns the moments before the first step."""
        return cls(torch.zeros_like(value), torch.zeros_like(value))


def adam_step(
    value: Tensor, gradient: Tensor, moments: Moments, *, step: int, lr: float, betas: tuple[float, float] = (0.9, 0.999)
) -> tuple[Tensor, Moments]:
    """Returns value and moments after a step, counted from 0. Reference: Kingma and Ba 2015, Adam (arXiv:1412.6980)."""
    direction, moments = _direction(gradient, moments, step=step, betas=betas, epsilon=1e-8)
    return value - lr * direction, moments


def lamb_step(value: Tensor, gradient: Tensor, moments: Moments, *, step: int, lr: float) -> tuple[Tensor, Moments]:
    """Returns value and moments after a step along Adam's direction, scaled to the norm of the value; unscaled if either is zero.

    Reference: You et al. 2020, Large Batch Optimization for Deep Learning (LAMB, arXiv:1904.00962), without weight decay
    """
    direction, moments = _direction(gradient, moments, step=step, betas=(0.9, 0.999), epsilon=1e-6)
    norms = value.norm(), direction.norm()
    # Where a norm is zero the quotient is computed all the same; `where` discards it.
    trust = torch.where((norms[0] > 0) & (norms[1] > 0), norms[0] / norms[1], 1.0)
    return value - lr * trust * direction, moments


def _direction(
    gradient: Tensor, moments: Moments, *, step: int, betas: tuple[float, float], epsilon: float
) -> tuple[Tensor, Moments]:
    """Returns the bias-corrected mean divided by the root of the mean square, and the new moments."""
    beta1, beta2 = betas
    # Not in place: the state before this step may still be saved.
    first = beta1 * moments.first + (1 - beta1) * gradient
    second = beta2 * moments.second + (1 - beta2) * gradient.square()
    mean, square = first / (1 - beta1 ** (step + 1)), second / (1 - beta2 ** (step + 1))
    return mean / (square.sqrt() + epsilon), Moments(first, second)
