"""Checks that a network from elsewhere returns logits, and which layer is its last."""

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.flops import without_storage
from pruneyard.workloads.networks.last_layer import (
    CLASSIFIER,
    find_last_layer,
    last_layer_name,
    record_last_layer,
)
from pruneyard.workloads.plugins import name_of
from pruneyard.workloads.user_code.identity import source_digest

_LAST_LAYERS: dict[tuple[object, tuple[int, ...], int], str] = {}
"""The last layers of networks that were checked in this process."""


def check_outputs(network: nn.Module, *, table: object, call: str, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Records the last layer of a network, and raises `ValueError` unless it maps images (B, C, H, W) to logits (B, num_classes).

    Runs a copy on the meta device, once for each table. table: what the network was built from. call: how messages name it.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"model: {call} returned a {type(network).__name__}; it must be an nn.Module")
    if lazy := [name or type(module).__name__ for name, module in network.named_modules() if _is_lazy(module)]:
        raise ValueError(f"model: {call} has lazy layers: {', '.join(lazy)}; give them their sizes, as in nn.Linear(64, 10)")
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


def _is_lazy(module: nn.Module) -> bool:
    return isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()


def checked_network(model: ModelBuilder, *, image_shape: tuple[int, ...], num_classes: int) -> tuple[nn.Module, list[str]]:
    """Returns the network of a model on the meta device, and warnings.

    The network of a plug-in must return logits, and its last layer must be the one that is taken for it: only a network itself
    knows what `check_outputs` records, and a plug-in's is built anew wherever it is used. Raises `ValueError` if it is another.
    """
    with torch.device("meta"):
        network = model.build(image_shape=image_shape, num_classes=num_classes)
    if source_digest(type(model)) is None:
        return network, []
    assumed = _assumed_last_layer(network)  # before the check records what the forward pass says
    call = name_of(model)
    check_outputs(network, table=model, call=call, image_shape=image_shape, num_classes=num_classes)
    found = _LAST_LAYERS[model, image_shape, num_classes]
    if assumed == found:
        return network, []
    if not assumed:
        why = f"defines other layers after its last one, {found}, so methods that use features refuse it"
        return network, [f"model: {call} {why}; rename {found} to {CLASSIFIER}, or define it last"]
    if not found:
        why = f"changes the output of its last layer, {assumed}, so methods that use features may refuse it"
        return network, [f"model: {call} {why}"]
    other = f", and {assumed} to something else" if assumed == CLASSIFIER else ""
    raise ValueError(
        f"model: {call} returns the output of {found}, but {assumed} is taken for its last layer, whose inputs are the features; "
        f"rename {found} to {CLASSIFIER}{other}"
    )


def _assumed_last_layer(network: object) -> str:
    """Returns the last layer as readers of the network find it; empty where there is none, which methods refuse themselves."""
    if not isinstance(network, nn.Module):
        return ""
    try:
        return last_layer_name(network)
    except ValueError:
        return ""
