"""The residual blocks of a network that can be removed, and how much its logits change without each of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pruneyard.workloads.masks.masks import all_prunable_layers


def removable_blocks(network: nn.Module, images: Tensor) -> list[str]:
    """Returns the names of the residual blocks that return a tensor of the shape of their input, in module order.

    A residual block is a module of several ones, with prunable weights, that returns its input when all its parameters are zero.
    Of two blocks, one within the other, it is the inner one. images: inputs (B, ...) of the network, in evaluation mode.
    """
    prunable = list(all_prunable_layers(network))
    found = [
        name
        for name, module in network.named_modules()
        if name and any(module.children()) and any(weight.startswith(f"{name}.") for weight in prunable)
        if _returns_its_input_at_zero(module, network, images)
    ]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


@torch.no_grad()
def _returns_its_input_at_zero(module: nn.Module, network: nn.Module, images: Tensor) -> bool:
    """Returns whether the output of a module of the network is its one input, when its parameters are zero for the call."""
    kept = [parameter.clone() for parameter in module.parameters()]
    inputs, answers = list[Tensor](), list[bool]()

    def before(_: nn.Module, given: tuple[Any, ...]) -> None:
        inputs[:] = [tensor.clone() for tensor in given if isinstance(tensor, Tensor)]  # a block may write into its input

    def after(_: nn.Module, __: tuple[Any, ...], output: object) -> None:
        answers.append(len(inputs) == 1 and isinstance(output, Tensor) and torch.equal(output, inputs[0]))

    for parameter in module.parameters():
        parameter.zero_()
    hooks = module.register_forward_pre_hook(before), module.register_forward_hook(after)
    network(images)
    for hook in hooks:
        hook.remove()
    for parameter, values in zip(module.parameters(), kept, strict=True):
        parameter.copy_(values)
    return answers == [True]


@torch.no_grad()
def distortions_without(network: nn.Module, blocks: Sequence[str], images: Tensor) -> dict[str, float]:
    """Returns for each block the mean squared change of the logits without it, over their variance.

    Norms use the statistics of the images (B, ...), and dropout is off. The network keeps its parameters; its mode and running
    statistics change.
    """
    for module in network.modules():
        module.train(isinstance(module, _NormBase))
    original = network(images).double()
    scale = float(original.var(dim=0).mean())
    found = {}
    for name in blocks:
        block = network.get_submodule(name)
        network.set_submodule(name, nn.Identity())
        found[name] = float((network(images).double() - original).square().mean()) / max(scale, torch.finfo(torch.float64).tiny)
        network.set_submodule(name, block)
    return found
