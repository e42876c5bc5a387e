"""Training trajectories of a network's weights as flat vectors: the end of a student's path and its distance to a target."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pruneyard.workloads.networks.second_derivatives import twice_differentiable_attention


def flatten_parameters(network: nn.Module) -> Tensor:
    """Returns a copy of all parameters as one vector (P,), in their order."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def unflatten_parameters(network: nn.Module, weights: Tensor) -> dict[str, Tensor]:
    """Returns views of a vector (P,) in the shapes of the network's parameters, by name."""
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    parts = weights.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def train_student(network: nn.Module, start: Tensor, batches: Iterable[tuple[Tensor, Tensor]], rate: Tensor) -> Tensor:
    """Returns weights (P,) after a step of plain gradient descent on each batch; differentiable by images and `rate`.

    start: (P,). batches: normalised images and labels. The graph of every step is kept, so memory grows with their number.
    """
    weights = start.detach().requires_grad_()
    for images, labels in batches:
        with twice_differentiable_attention():
            logits = functional_call(network, unflatten_parameters(network, weights), (images,))
        loss = functional.cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        # Not in place: the images' gradient passes back through the weights of every step.
        weights = weights - rate * gradient
    return weights


def remaining_distance(end: Tensor, *, start: Tensor, target: Tensor) -> Tensor:
    """Returns the squared distance of end and target divided by that of start and target: 0 at the target, 1 at the start."""
    return (end - target).square().sum() / (start - target).square().sum()
