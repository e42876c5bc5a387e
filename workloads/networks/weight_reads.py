"""Which weights a network reads without calling their layers, as `nn.MultiheadAttention` does with its output projection."""

from typing import Any

import torch
from torch import nn

from pruneyard.workloads.masks.masks import prunable_layers
from pruneyard.workloads.networks.flops import without_storage


def weights_read_directly(model: nn.Module, image_shape: tuple[int, int, int]) -> frozenset[str]:
    """Returns the names of the prunable weights that a forward pass in eval mode reads outside the calls of their layers.

    `nn.TransformerEncoderLayer` reads the weights of its linear layers to decide whether its fused kernel can run, so it is
    among these. `image_shape` is (C, H, W). Runs a copy on the meta device with one image.
    """
    twin = without_storage(model).eval()
    found: set[str] = set()
    dtype = next((parameter.dtype for parameter in twin.parameters()), torch.float32)
    for name, layer in prunable_layers(twin).items():
        if name.endswith(".weight"):
            _watch(layer, name, found)
    with torch.no_grad():
        twin(torch.empty((1, *image_shape), dtype=dtype, device="meta"))
    return frozenset(found)


def _watch(layer: nn.Module, name: str, found: set[str]) -> None:
    """Makes the layer add `name` to `found` when its weight is read outside its own forward pass."""
    kind: Any = type(layer)
    calls = 0

    class Watched(kind):  # type: ignore[misc]  # the class is known at run time only
        def __getattr__(self, attribute: str) -> Any:
            if attribute == "weight" and not calls:
                found.add(name)
            return super().__getattr__(attribute)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            try:
                return super().forward(*args, **kwargs)
            finally:
                calls -= 1

    layer.__class__ = Watched
