"""Rewinding: sets a training's network back to earlier values."""

import torch

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.training.state import Training


def rewind(training: Training, values: Tensors) -> None:
    """Copies values into the network and clears the optimizer state; without values nothing changes.

    values: of parameters and buffers, by full name and in their dense shapes. The next `apply_masks` masks them.
    """
    if not values:
        return
    layers = training.applied.layers
    for name in list(layers.indices):
        layers.restore(name, training.optimizer)
    weights = training.network_tensors.weights()
    with torch.no_grad():
        for name, value in values.items():
            weights[name].copy_(value)
    training.optimizer.state.clear()
