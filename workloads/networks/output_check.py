"""Checks that a network from elsewhere returns logits, and records its last layer."""

import torch
from torch import Tensor, nn

from pruneyard.workloads.networks.flops import without_storage
from pruneyard.workloads.networks.last_layer import find_last_layer, record_last_layer

_LAST_LAYERS: dict[tuple[object, tuple[int, ...], int], str] = {}
"""The last layers of networks that were checked in this process."""


def check_outputs(network: nn.Module, *, table: object, call: str, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Records the last layer of a network, and raises `ValueError` unless it maps images (B, C, H, W) to logits (B, num_classes).

    Runs a copy on the meta device, once for each table. table: what the network was built from. call: how messages name it.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"model: {call} returned a {type(network).__name__}; it must be an nn.Module")
    key = (table, image_shape, num_classes)
    if key not in _LAST_LAYERS:
        twin = without_storage(network).eval()
        dtype = next((parameter.dtype for parameter in twin.parameters()), torch.float32)
        try:
            output, name = find_last_layer(twin, torch.empty((2, *image_shape), dtype=dtype, device="meta"))
        except Exception as error:  # whatever the code raises
            raise ValueError(
                f"model: {call} cannot be applied to images {(2, *image_shape)} on the meta device, which counts its work: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(output, Tensor) or output.shape != (2, num_classes):
            found = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(
                f"model: {call} returns {found} for images {(2, *image_shape)}; it must return logits (2, {num_classes}), one "
                "for each class"
            )
        _LAST_LAYERS[key] = name
    record_last_layer(network, _LAST_LAYERS[key])
