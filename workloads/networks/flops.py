"""The FLOPs of sparse training: multiply-adds per layer, and FLOPs per sample of a forward pass and of a step.

A multiply-add counts as two FLOPs. Convolutions and linear layers count, weighted by the density of their masks;
norms, activations, biases, the loss and the optimizer do not. Masks only simulate sparsity: these are the FLOPs
that sparse kernels would execute.
Reference: Evci et al. 2020, Rigging the Lottery, appendix H (arXiv:1911.11134).
"""

import copy
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneyard.workloads.masks.masks import layer_densities, prunable_layers, prunable_weights
from pruneyard.workloads.networks.builder import ModelBuilder


def layer_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Returns the multiply-adds per sample of every prunable weight, by parameter name; 0 if the forward pass skips it.

    `image_shape` is (C, H, W). Runs a copy on the meta device with one image: `model`, its mode and its statistics
    do not change, and no random number is sampled. Every call of a layer counts, also if layers share a weight.
    """
    twin = _without_storage(model).eval()
    weights = prunable_weights(twin)
    names = {id(weight): name for name, weight in weights.items()}
    macs = dict.fromkeys(weights, 0)

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, (_ConvNd, nn.Linear))
        macs[names[id(layer.weight)]] += _uses_per_weight(layer, inputs[0], output) * layer.weight.numel()

    for layer in prunable_layers(twin):
        layer.register_forward_hook(count)
    dtype = next(iter(weights.values())).dtype if weights else torch.float32
    with torch.no_grad():
        twin(torch.empty((1, *image_shape), dtype=dtype, device="meta"))
    return macs


@cache
def macs_of(model: ModelBuilder, image_shape: tuple[int, int, int], num_classes: int) -> Mapping[str, int]:
    """Returns `layer_macs` of the network that a model table describes, cached per process."""
    with torch.device("meta"):
        network = model.build(image_shape=image_shape, num_classes=num_classes)
    return MappingProxyType(layer_macs(network, image_shape))


def forward_flops(macs: Mapping[str, int], masks: Mapping[str, Tensor]) -> float:
    """Returns the FLOPs per sample of a forward pass; a weight without a mask counts as dense."""
    densities = layer_densities(masks)
    return sum(2 * count * densities.get(name, 1.0) for name, count in macs.items())


def training_flops(
    macs: Mapping[str, int], *, used: Mapping[str, Tensor], trained: Mapping[str, Tensor]
) -> float:
    """Returns the FLOPs per sample of a forward and a backward pass.

    A backward pass costs two forward passes: one for the gradient of activations, one for that of weights. The forward pass and
    the former count the weights `used`, the latter those `trained`; without masks, as for growth by gradient, all weights.
    """
    return 2 * forward_flops(macs, used) + forward_flops(macs, trained)


def _without_storage(model: nn.Module) -> nn.Module:
    """Returns a deep copy on the meta device; a memo of meta tensors keeps `deepcopy` from copying any value."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def _uses_per_weight(layer: _ConvNd | nn.Linear, images: Tensor, output: Tensor) -> int:
    """Returns how often one image uses an entry of the weight: positions of the output, or of the input if transposed."""
    if isinstance(layer, nn.Linear):
        return output.numel() // layer.out_features
    if layer.transposed:
        return images.numel() // layer.in_channels
    return output.numel() // layer.out_channels
