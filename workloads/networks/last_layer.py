"""The last layer of a network: the linear layer whose output is that of the network, and whose inputs are its features."""

import torch
from torch import Tensor, nn

from pruneyard.workloads.networks.flops import storage_of

CLASSIFIER = "classifier"
"""The name of the last layer in the models of this package."""
_RECORDED = "pruneyard_last_layer"
"""The attribute of a network with the name of its last layer, where it has another name."""


def last_layer_name(network: nn.Module) -> str:
    """Returns the name of the network's last layer: the recorded one, else `classifier`, else the linear layer defined last.

    Raises `ValueError` for a network that does not end with a linear layer.
    """
    name: str | None = getattr(network, _RECORDED, None)
    if name is None:
        name = _last_by_definition(network)
    if name not in dict(network.named_modules()) or not name:
        raise ValueError(
            "the network has no features: it does not end with nn.Linear, whose output is that of the network; "
            f"define that layer last, or call it {CLASSIFIER}"
        )
    return name


def _last_by_definition(network: nn.Module) -> str:
    """Returns `classifier` if it is one layer, else the last layer with parameters if it is linear; empty if it is not."""
    layers = {name: module for name, module in network.named_modules() if any(True for _ in module.parameters(recurse=False))}
    if CLASSIFIER in layers:
        return CLASSIFIER
    last = next(reversed(layers), "")
    return last if isinstance(layers.get(last), nn.Linear) else ""


def last_weight_name(network: nn.Module) -> str:
    """Returns the name of the weight of the last layer; for a network without one, of the weight defined last, if any."""
    try:
        return f"{last_layer_name(network)}.weight"
    except ValueError:
        return next((name for name, weight in reversed(list(network.named_parameters())) if weight.ndim > 1), "")


def last_layer(network: nn.Module) -> nn.Module:
    """Returns the network's last layer. Raises `ValueError` as `last_layer_name` does."""
    return network.get_submodule(last_layer_name(network))


def find_last_layer(network: nn.Module, images: Tensor) -> tuple[object, str]:
    """Returns what the network returns for the images, and the name of the linear layer that returned it; empty if none did."""
    made: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no other tensor gets the identity of one

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            made[storage_of(output)] = name
            kept.append(output)

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            output = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return output, made.get(storage_of(output), "") if isinstance(output, Tensor) else ""


def record_last_layer(network: nn.Module, name: str) -> None:
    """Records the name of the network's last layer in the network."""
    setattr(network, _RECORDED, name)
