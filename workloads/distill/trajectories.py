"""Paths of a network's weights as one flat vector: where a student comes out, and how far from where it should be."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional


def flat(network: nn.Module) -> Tensor:
    """All parameters (P,) in their order; a copy."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def by_name(network: nn.Module, weights: Tensor) -> dict[str, Tensor]:
    """Views of a vector (P,) in the shapes of the network's parameters."""
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    parts = weights.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def student_end(network: nn.Module, start: Tensor, batches: Iterable[tuple[Tensor, Tensor]], rate: Tensor) -> Tensor:
    """Weights (P,) after a step of plain gradient descent on each batch; differentiable by images and rate.

    start: (P,). batches: normalised images and labels. Every step's graph is kept, so memory grows with their number.
    """
    weights = start.detach().requires_grad_()
    for images, labels in batches:
        loss = functional.cross_entropy(functional_call(network, by_name(network, weights), (images,)), labels)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        weights = weights - rate * gradient
    return weights


def remaining_distance(end: Tensor, *, start: Tensor, target: Tensor) -> Tensor:
    """Squared distance of end and target over that of start and target: 0 is arrival, 1 no better than standing still."""
    return (end - target).square().sum() / (start - target).square().sum()
