"""A finished run that is merged: its network, its masks, and what its training started from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.networks.shared_tensors import state_once


@dataclass(frozen=True, kw_only=True)
class Member:
    """A finished run that is merged.

    spec: of its job, with all defaults filled in.
    num_extra: outputs beyond the classes.
    read_start: returns the parameters and buffers that its training started from, or None if these were random.
    """

    run_key: str
    network: FinishedNetwork
    spec: Mapping[str, Any] = field(default_factory=dict)
    num_extra: int = 0
    read_start: Callable[[], Tensors | None] = lambda: None

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """All parameters and buffers by name, shared ones once, on the CPU; prunable weights are 0 outside their masks."""
        return {name: tensor.detach() for name, tensor in state_once(self.network.network).items()}

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The masks by parameter name; a prunable weight without one is dense."""
        return self.network.masks

    @property
    def blueprint(self) -> Blueprint:
        """The architecture and the input format of the network."""
        return self.network.blueprint


def check_same_outputs(members: Sequence[Member]) -> None:
    """Raises `ValueError` unless all members map the same inputs to the same classes."""
    first = members[0]
    for other in members[1:]:
        for name in ("image_shape", "num_outputs", "mean", "std", "pixels"):
            one, two = getattr(first.blueprint, name), getattr(other.blueprint, name)
            if one != two:
                raise ValueError(f"input: {first.run_key} has {name} {one}, and {other.run_key} {two}; they must be equal")
        if first.num_extra != other.num_extra:
            given = f"{first.run_key} has {first.num_extra} outputs beyond the classes, and {other.run_key} {other.num_extra}"
            raise ValueError(f"input: {given}; the numbers must be equal")


def check_same_network(members: Sequence[Member]) -> None:
    """Raises `ValueError` unless all members have one architecture, so that their weights can be merged."""
    first = members[0]
    for other in members[1:]:
        if first.blueprint.model != other.blueprint.model:
            given = f"{first.run_key} is {dict(first.blueprint.model)}, and {other.run_key} {dict(other.blueprint.model)}"
            raise ValueError(f"input: {given}; weights of different models cannot be merged")
        if first.blueprint.prunable != other.blueprint.prunable:
            raise ValueError(f"input: {first.run_key} and {other.run_key} differ in prunable; they must be equal")


def joined_masks(members: Sequence[Member], *, union: bool) -> dict[str, Tensor]:
    """Returns the masks that cover all members. A weight that is dense in one of them has none.

    Raises `ValueError` for masks that differ, unless `union` allows them.
    """
    joined = dict(members[0].masks)
    for member in members[1:]:
        if not union:
            _check_same_masks(members[0], member)
        joined = {name: mask | member.masks[name] for name, mask in joined.items() if name in member.masks}
    return joined


def _check_same_masks(one: Member, other: Member) -> None:
    for name in {**one.masks, **other.masks}:
        if name not in one.masks or name not in other.masks or not torch.equal(one.masks[name], other.masks[name]):
            raise ValueError(
                f"masks is same, but {one.run_key} and {other.run_key} have different masks of {name}: a merge of both has more "
                "weights than either; train the runs under one mask, or set masks: union"
            )
