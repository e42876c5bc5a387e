"""Conversion between networks and named tensors of a state."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruneyard.workloads.distill.distiller import DistillContext
from pruneyard.workloads.networks.shared_tensors import assign_state, state_once
from pruneyard.workloads.networks.unsaved_tensors import fill_unsaved


def prefixed_tensors(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers by prefixed name. They share the network's memory, so it must not be trained further."""
    return {prefix + name: tensor for name, tensor in state_once(network).items()}


def rebuild_network(prefix: str, tensors: Mapping[str, Tensor], context: DistillContext) -> nn.Module:
    """Builds the context's model with copies of the prefixed tensors, in training mode on their device."""

    def build() -> nn.Module:
        return context.model.build(image_shape=context.real.split.image_shape, num_classes=context.real.num_classes)

    with torch.device("meta"):
        network = build()
    own = {name.removeprefix(prefix): tensor.clone() for name, tensor in tensors.items() if name.startswith(prefix)}
    # A network on the meta device has no memory to copy into; it takes the tensors themselves.
    assign_state(network, own)
    fill_unsaved(network, build, device=context.device)
    return network.requires_grad_()
