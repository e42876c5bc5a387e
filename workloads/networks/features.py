"""The features of a network: the input of its last layer."""

import torch
from torch import Tensor, nn


def features(network: nn.Module, images: Tensor) -> Tensor:
    """Returns (B, F), the input of the layer called `classifier`; differentiable by the images."""
    captured: list[Tensor] = []
    layer = network.get_submodule("classifier")
    handle = layer.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return torch.flatten(captured[0], 1)
