"""Finished networks with random weights and masks, whose norms have running statistics."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.plugins import find

MakeMask = Callable[[Tensor, torch.Generator], Tensor]

SMALL: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "mlp": ({"name": "mlp", "width": 32}, (1, 8, 8)),
    "convnet": ({"name": "convnet", "width": 16, "depth": 2}, (3, 16, 12)),
    "resnet20": ({"name": "resnet20"}, (3, 16, 16)),
}


def random_mask(density: float) -> MakeMask:
    return lambda weight, generator: torch.rand(weight.shape, generator=generator) < density


def finished(
    name: str, mask: MakeMask | None = None, *, except_for: tuple[str, ...] = (), seed: int = 0
) -> FinishedNetwork:
    """Returns a network of `SMALL`. Without `mask` it has no masks; the weights in `except_for` never have one."""
    model, shape = SMALL[name]
    return finished_of(model, shape, mask, except_for=except_for, seed=seed)


def finished_of(
    model: Mapping[str, Any],
    shape: tuple[int, int, int],
    mask: MakeMask | None,
    *,
    except_for: tuple[str, ...] = (),
    seed: int = 0,
) -> FinishedNetwork:
    fields = {key: value for key, value in model.items() if key != "name"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = find("models", model["name"])(**fields).build(image_shape=shape, num_classes=10)
        randomize_norms(network)
    generator = torch.Generator().manual_seed(seed)
    weights = prunable_weights(network)
    masks = {} if mask is None else {n: mask(w, generator) for n, w in weights.items() if n not in except_for}
    blueprint = Blueprint(
        model=model, image_shape=shape, num_outputs=10, mean=(0.5,) * shape[0], std=(0.25,) * shape[0]
    )
    return FinishedNetwork.of(blueprint, weights=network.state_dict(), masks=masks)


def randomize_norms(network: nn.Module) -> None:
    """Sets parameters and statistics of norms to other values than their initial ones."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
