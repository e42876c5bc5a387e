"""Finds weights that a network reads without calling their layers, as `nn.MultiheadAttention` does with its output projection."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from pruneyard.workloads.masks.masks import prunable_layers
from pruneyard.workloads.networks.flops import without_storage


def weights_read_directly(
    model: nn.Module, image_shape: tuple[int, ...], *, readers: Mapping[str, str] = MappingProxyType({})
) -> frozenset[str]:
    """Returns the names of the prunable weights that a forward pass in eval mode reads outside the calls of their layers.

    readers: by name of a weight, the path of another module that may read it when called, instead of its layer; a weight that is
        not called `weight` is watched only if it is among these.

    `nn.TransformerEncoderLayer` reads the weights of its linear layers to decide whether its fused kernel can run, so it is
    among these. `image_shape` is (C, H, W). Runs a copy on the meta device with one image.
    """
    twin = without_storage(model).eval()
    found: set[str] = set()
    dtype = next((parameter.dtype for parameter in twin.parameters()), torch.float32)
    for name, layer in prunable_layers(twin).items():
        if name.endswith(".weight") or name in readers:
            is_called = _watch_calls(twin.get_submodule(readers[name]) if name in readers else layer)
            _watch_reads(layer, name, is_called, found)
    with torch.no_grad():
        twin(torch.empty((1, *image_shape), dtype=dtype, device="meta"))
    return frozenset(found)


def _watch_calls(module: nn.Module) -> Callable[[], bool]:
    """Returns a function that says whether the module's own forward pass runs."""
    kind: Any = type(module)
    calls = 0

    class Watched(kind):  # type: ignore[misc]  # the class is known at run time only
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            try:
                return super().forward(*args, **kwargs)
            finally:
                calls -= 1

    module.__class__ = Watched
    return lambda: calls > 0


def _watch_reads(layer: nn.Module, name: str, is_called: Callable[[], bool], found: set[str]) -> None:
    """Makes the layer add `name` to `found` when its weight of this name is read while `is_called` returns False."""
    kind: Any = type(layer)
    watched = name.rpartition(".")[2]

    class Watched(kind):  # type: ignore[misc]  # the class is known at run time only
        def __getattr__(self, attribute: str) -> Any:
            if attribute == watched and not is_called():
                found.add(name)
            return super().__getattr__(attribute)

    layer.__class__ = Watched
