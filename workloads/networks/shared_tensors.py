"""Tensors that a network has under several names, such as tied weights: they are stored once, under the first name."""

from collections.abc import Mapping
from itertools import chain
from typing import TypeVar

from torch import Tensor, nn

Stored = TypeVar("Stored")


def first_names(network: nn.Module) -> dict[str, str]:
    """Returns the first name of every parameter and buffer that has several, by each of its later names."""
    parameters, buffers = (named(remove_duplicate=False) for named in (network.named_parameters, network.named_buffers))
    firsts: dict[int, str] = {}
    names = [(name, firsts.setdefault(id(tensor), name)) for name, tensor in chain(parameters, buffers)]
    return {name: first for name, first in names if name != first}


def state_once(network: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict of a network, in which a shared tensor occurs once, under its first name."""
    later = first_names(network)
    return {name: tensor for name, tensor in network.state_dict().items() if name not in later}


def under_first_names(tensors: Mapping[str, Stored], later: Mapping[str, str]) -> dict[str, Stored]:
    """Returns tensors, or what is known of them, by their first names alone; the first name counts where both are given."""
    moved = {later[name]: tensor for name, tensor in tensors.items() if name in later}
    return {**moved, **{name: tensor for name, tensor in tensors.items() if name not in later}}


def with_later_names(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what `load_state_dict` takes: a shared tensor under each of its names, whichever of them is given."""
    later = first_names(network)
    once = under_first_names(tensors, later)
    saved = network.state_dict().keys() if later else ()
    return {**once, **{name: once[first] for name, first in later.items() if first in once and name in saved}}


def assign_state(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Assigns tensors to all parameters and saved buffers, as one tensor where they are shared.

    Raises `RuntimeError` if names or shapes differ.
    """
    later = first_names(network)
    shared = {name for name, _ in network.named_parameters()}.intersection(later.values())
    # One parameter object for all names: a tensor would become a parameter of its own under each of them.
    once = {
        name: nn.Parameter(tensor, requires_grad=False) if name in shared else tensor
        for name, tensor in under_first_names(tensors, later).items()
    }
    network.load_state_dict(with_later_names(network, once), strict=True, assign=True)
