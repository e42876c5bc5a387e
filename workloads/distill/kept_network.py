"""Networks as named tensors of a state: put in under a prefix, and built again with weights of their own."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruneyard.workloads.distill.distiller import Lab


def kept(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by prefixed name, in the network's own memory: do not train it any further."""
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


def rebuilt(prefix: str, tensors: Mapping[str, Tensor], lab: Lab) -> nn.Module:
    """The lab's model with copies of what was kept, in training mode on the device of the tensors."""
    with torch.device("meta"):
        network = lab.model.build(image_shape=lab.real.split.image_shape, num_classes=lab.real.num_classes)
    own = {name.removeprefix(prefix): tensor.clone() for name, tensor in tensors.items() if name.startswith(prefix)}
    network.load_state_dict(own, assign=True)
    return network.requires_grad_()
