"""The features of a network: the input of its last layer."""

import torch
from torch import Tensor, nn

from pruneyard.workloads.networks.last_layer import last_layer


def features(network: nn.Module, images: Tensor) -> Tensor:
    """Returns (B, F), the input of the last layer; differentiable by the images.

    Raises `ValueError` for a network that does not end with a linear layer.
    """
    captured: list[Tensor] = []
    layer = last_layer(network)
    handle = layer.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return torch.flatten(captured[0], 1)
