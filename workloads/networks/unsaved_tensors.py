"""Tensors of a network that its state dict does not hold, such as non-persistent buffers: they are computed when it is built."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pruneyard.workloads.seeding import seeded_globals


def fill_unsaved(network: nn.Module, build: Callable[[], nn.Module], *, device: torch.device | str = "cpu") -> None:
    """Gives a network that was built on the meta device the tensors that loading its state dict has left there.

    build: builds the network anew, with the current default device. The global generators are left untouched.

    Raises `ValueError` for tensors whose numbers differ each time that the network is built, or that it does not have then.
    """
    left = _unsaved(network)
    if not left:
        return
    built = []
    for seed in (0, 1):
        with torch.device("cpu"), seeded_globals(seed):
            built.append(_tensors(build()))
    first, second = built
    random = [name for name in left if name not in first or not _are_equal(first[name], second.get(name), left[name])]
    if random:
        raise ValueError(
            f"the weights lack {', '.join(random)}, which the model does not save, and which is not the same each time that the "
            "model is built; make it a buffer with persistent=True"
        )
    for path, module in network.named_modules():
        for key in [key for key in (*module._buffers, *vars(module)) if _name(path, key) in left]:
            tensor = first[_name(path, key)].detach().to(device)
            (module._buffers if key in module._buffers else vars(module))[key] = tensor


def _unsaved(network: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers and the plain attributes on the meta device, by name."""
    return {name: tensor for name, tensor in _tensors(network).items() if tensor.is_meta}


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {
        _name(path, key): value
        for path, module in network.named_modules()
        for key, value in (*module._buffers.items(), *vars(module).items())
        if isinstance(value, Tensor)
    }


def _are_equal(one: Tensor, other: Tensor | None, left: Tensor) -> bool:
    return other is not None and one.shape == left.shape and one.dtype == left.dtype and torch.equal(one, other)


def _name(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
