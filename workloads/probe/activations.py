"""Computes the outputs of the layers of a finished network on rows of data."""

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.masks.masks import all_prunable_layers
from pruneyard.workloads.probe.probe import BATCH_SIZE


@torch.no_grad()
def layer_inputs(network: nn.Module, rows: DeviceSplit) -> dict[str, Tensor]:
    """Returns the inputs of every convolution and linear layer on all rows, (N, F) float32 on the CPU, by the layer's name.

    The order is that of the forward pass: first the inputs of the network, last its features. A layer that is called several
    times in one pass is left out.
    """
    owners = set(all_prunable_layers(network).values())
    names = {module: name for name, module in network.named_modules() if module in owners}
    kept: dict[str, list[Tensor]] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.setdefault(names[module], []).append(inputs[0].flatten(1).float().cpu())

    handles = [module.register_forward_pre_hook(keep) for module in names]
    try:
        batches = 0
        for images, _ in rows.batches(BATCH_SIZE):
            network(images)
            batches += 1
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in kept.items() if len(parts) == batches}
