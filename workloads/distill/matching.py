"""Gradient matching: gradients of a network on real and synthetic images of a class, and distances between them.

Weights are compared with at least two dimensions: by rows, which are the filters of a convolution and the outputs of a linear
layer. Biases and norms have no part in it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-6  # in the cosine's denominator, as published


def matched_parameters(network: nn.Module, *, classifier: bool) -> list[nn.Parameter]:
    """Weights of two dimensions and more, in module order; without the linear layers unless `classifier`."""
    least = 2 if classifier else 3
    return [parameter for parameter in network.parameters() if parameter.ndim >= least]


def loss_gradient(
    network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, graph: bool = False
) -> list[Tensor]:
    """Of the mean cross-entropy; with `graph` it can itself be differentiated by the images. No `.grad` is touched."""
    loss = functional.cross_entropy(network(images), labels)
    return list(torch.autograd.grad(loss, parameters, create_graph=graph))


def chunked_gradient(
    network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, chunk: int
) -> list[Tensor]:
    """`loss_gradient` in pieces of `chunk` rows: equal up to summation order, and faster on a CPU's caches."""
    total: list[Tensor] = []
    for part, targets in zip(images.split(chunk), labels.split(chunk), strict=True):
        loss = functional.cross_entropy(network(part), targets, reduction="sum") / len(labels)
        gradient = torch.autograd.grad(loss, parameters)
        total = list(torch._foreach_add(total, gradient)) if total else list(gradient)
    return total


def cosine_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over layers and rows of 1 - cosine. Reference: Zhao, Mopuri and Bilen 2021 (DC, arXiv:2006.05929)."""
    return torch.stack([_cosine_distance(s.flatten(1), r.flatten(1)) for s, r in zip(synthetic, real, strict=True)]).sum()


def _cosine_distance(synthetic: Tensor, real: Tensor) -> Tensor:
    products = (synthetic * real).sum(1)
    cosines: Tensor = products / (synthetic.norm(dim=1) * real.norm(dim=1) + EPSILON)
    return (1 - cosines).sum()


def squared_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over layers and entries of squared differences."""
    return torch.stack([(s - r).square().sum() for s, r in zip(synthetic, real, strict=True)]).sum()


def absolute_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over layers and entries of absolute differences."""
    return torch.stack([(s - r).abs().sum() for s, r in zip(synthetic, real, strict=True)]).sum()


DISTANCES = {"cosine": cosine_distance, "squared": squared_distance, "absolute": absolute_distance}
