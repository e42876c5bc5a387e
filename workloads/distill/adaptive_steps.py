"""Adam and LAMB as functions: a value and its moments go in, new ones come out."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Running means of a gradient and of its square, each of the value's shape."""

    first: Tensor
    second: Tensor

    @classmethod
    def zero(cls, value: Tensor) -> "Moments":
        """Before the first step."""
        return cls(torch.zeros_like(value), torch.zeros_like(value))


def adam_step(
    value: Tensor, gradient: Tensor, moments: Moments, *, step: int, lr: float, betas: tuple[float, float] = (0.9, 0.999)
) -> tuple[Tensor, Moments]:
    """The value after the step of this number, counted from 0. Reference: Kingma and Ba 2015, Adam (arXiv:1412.6980)."""
    direction, moments = _direction(gradient, moments, step=step, betas=betas, epsilon=1e-8)
    return value - lr * direction, moments


def lamb_step(value: Tensor, gradient: Tensor, moments: Moments, *, step: int, lr: float) -> tuple[Tensor, Moments]:
    """Adam's direction, made as long as the value itself; as it is where either is zero.

    Reference: You et al. 2020, Large Batch Optimization for Deep Learning (LAMB, arXiv:1904.00962), without weight decay
    """
    direction, moments = _direction(gradient, moments, step=step, betas=(0.9, 0.999), epsilon=1e-6)
    lengths = value.norm(), direction.norm()
    trust = torch.where((lengths[0] > 0) & (lengths[1] > 0), lengths[0] / lengths[1], 1.0)
    return value - lr * trust * direction, moments


def _direction(
    gradient: Tensor, moments: Moments, *, step: int, betas: tuple[float, float], epsilon: float
) -> tuple[Tensor, Moments]:
    """Bias-corrected mean over the root of the mean square."""
    slow, slower = betas
    first = slow * moments.first + (1 - slow) * gradient
    second = slower * moments.second + (1 - slower) * gradient.square()
    mean, square = first / (1 - slow ** (step + 1)), second / (1 - slower ** (step + 1))
    return mean / (square.sqrt() + epsilon), Moments(first, second)
