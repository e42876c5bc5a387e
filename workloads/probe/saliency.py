"""Attributions of a network's decision to pixels: gradients, gradient times input, integrated gradients, and a random control.

Inputs are (B, C, H, W) or (B, F), normalised. An attribution has one value for each place: (B, H W), or (B, F).
"""

from typing import Literal

import torch
from torch import Tensor, nn

ATTRIBUTIONS = ("gradient", "gradient_times_input", "integrated_gradients", "random")
Attribution = Literal["gradient", "gradient_times_input", "integrated_gradients", "random"]


def gradient(network: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    """Returns the gradient of the logits of `classes: (B,)` by the inputs, in their shape."""
    leaf = inputs.detach().clone().requires_grad_()
    logits = network(leaf).gather(1, classes[:, None]).sum()
    (found,) = torch.autograd.grad(logits, leaf)
    return found


def integrated_gradients(network: nn.Module, inputs: Tensor, classes: Tensor, *, num_steps: int) -> Tensor:
    """Returns the gradients along the segment from zero, the mean input, times the inputs, by the midpoint rule.

    Reference: Sundararajan, Taly and Yan 2017, Axiomatic Attribution for Deep Networks (arXiv:1703.01365).
    """
    total = torch.zeros_like(inputs)
    for step in range(num_steps):
        total += gradient(network, (step + 0.5) / num_steps * inputs, classes)
    return inputs * total / num_steps


def attribute(
    network: nn.Module, inputs: Tensor, classes: Tensor, *, method: Attribution, num_steps: int, generator: torch.Generator
) -> Tensor:
    """Returns the attribution of every place, (B, P); magnitudes of channels are added. Large values come first."""
    if method == "random":
        shape = (len(inputs), inputs[0, 0].numel() if inputs.ndim > 2 else inputs.shape[1])
        return torch.rand(shape, generator=generator).to(inputs.device)
    match method:
        case "gradient":
            found = gradient(network, inputs, classes)
        case "gradient_times_input":
            found = inputs * gradient(network, inputs, classes)
        case "integrated_gradients":
            found = integrated_gradients(network, inputs, classes, num_steps=num_steps)
    return magnitude(found)


def magnitude(values: Tensor) -> Tensor:
    """Returns the magnitudes of values in the shape of the inputs, added over channels: (B, P)."""
    return (values.abs().sum(dim=1) if values.ndim > 2 else values.abs()).flatten(1)


def places_kept(attribution: Tensor, share: float) -> Tensor:
    """Returns which places have the largest values, a share of them rounded to whole places: (B, P) bool; ties by position."""
    num = round(share * attribution.shape[1])
    order = attribution.argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(attribution, dtype=torch.bool)
    return kept.scatter_(1, order[:, :num], True)


def keep(inputs: Tensor, kept: Tensor) -> Tensor:
    """Returns the inputs with zeros, the mean input, where `kept: (B, P)` is False."""
    if inputs.ndim == 2:
        return inputs * kept
    return inputs * kept.view(len(inputs), 1, *inputs.shape[2:])
