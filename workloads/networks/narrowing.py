"""Removes groups of coupled channels from a network, which stays dense and becomes smaller."""

import copy
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pruneyard.workloads.networks.attention_heads import AttentionOfHeads
from pruneyard.workloads.networks.channel_graph import FIXED, ChannelGraph, channel_graph
from pruneyard.workloads.networks.residual import PadShortcut

Channels = Mapping[str, Sequence[int]]
"""The outputs that are kept of the layers that lose some, ascending, by the path of the layer."""


def kept_channels(graph: ChannelGraph, removed: Collection[int]) -> dict[str, tuple[int, ...]]:
    """Returns the channels that are left when groups are removed."""
    kept = {path: ~np.isin(groups, list(removed)) for path, groups in graph.rows.items()}
    return {path: tuple(np.flatnonzero(rows).tolist()) for path, rows in kept.items() if not rows.all()}


def removed_groups(graph: ChannelGraph, channels: Channels) -> set[int]:
    """Returns the groups that are removed from a network to keep `channels`.

    Raises `ValueError` if these are not the channels of a network from which whole groups were removed.
    """
    removed, rows = set[int](), graph.rows
    for path, kept in channels.items():
        if path not in rows:
            raise ValueError(f"channels has {path}; the layers are {', '.join(rows)}")
        removed |= set(np.delete(rows[path], list(kept)).tolist())
    if FIXED in removed or kept_channels(graph, removed) != {path: tuple(kept) for path, kept in channels.items()}:
        raise ValueError("channels do not fit: some of them must stay, or be removed together with others")
    return removed


def narrowed_network(network: nn.Module, image_shape: tuple[int, ...], channels: Channels) -> nn.Module:
    """Returns a copy of a network with these channels alone. Raises `ValueError` if it cannot be traced or they do not fit."""
    graph = channel_graph(network, image_shape)
    return without_groups(network, graph, removed_groups(graph, channels))


def without_groups(network: nn.Module, graph: ChannelGraph, removed: Collection[int]) -> nn.Module:
    """Returns a copy of a network without the groups; every layer must keep a channel."""
    smaller = copy.deepcopy(network)
    groups = list(removed)
    heads = {path for path, of_heads in graph.heads.items() if np.isin(of_heads, groups).any()}
    for path in heads:
        attention = smaller.get_submodule(path)
        if isinstance(attention, nn.MultiheadAttention):
            smaller.set_submodule(path, AttentionOfHeads.of(attention))
    projections = {f"{path}.{name}" for path in graph.heads.keys() - heads for name in ("in_proj", "out_proj")}
    for path, of_outputs in graph.rows.items():
        if path not in projections:
            _keep(smaller.get_submodule(path), ("weight", "bias"), ~np.isin(of_outputs, groups), axis=0)
    for path, of_inputs in graph.columns.items():
        if path in projections:
            continue
        _keep(smaller.get_submodule(path), ("weight",), ~np.isin(of_inputs, groups), axis=1)
    for path, of_norm in graph.norms.items():
        names = ("weight", "bias", "running_mean", "running_var")
        _keep(smaller.get_submodule(path), names, ~np.isin(of_norm, groups), axis=0)
    for path, padded in graph.pads.items():
        shortcut = smaller.get_submodule(path)
        assert isinstance(shortcut, PadShortcut)
        _keep_padding(shortcut, ~np.isin(padded, groups))
    return smaller


def masks_without_groups(
    weights: Mapping[str, Tensor], graph: ChannelGraph, removed: Collection[int]
) -> dict[str, Tensor]:
    """Returns masks with which the network computes what it computes without the groups: nothing reads them, nothing makes them.

    weights: those of convolutions, linear layers and attention, by parameter name.
    """
    groups, masks, of_rows, of_columns = list(removed), {}, graph.rows, graph.columns
    for name, weight in weights.items():
        path = name.removesuffix(".weight").removesuffix("_weight")
        rows, columns = (
            torch.from_numpy(~np.isin(found.get(path, np.full(size, FIXED)), groups))
            for found, size in ((of_rows, weight.shape[0]), (of_columns, weight.shape[1]))
        )
        mask = rows[:, None] & columns[None]
        masks[name] = mask.reshape(*mask.shape, *(1,) * (weight.ndim - 2)).expand(weight.shape).contiguous()
    return masks


def _keep(module: nn.Module, names: Sequence[str], kept: npt.NDArray[np.bool_], *, axis: int) -> None:
    """Reduces an axis of tensors of a module, and the sizes that the module states."""
    places = torch.from_numpy(np.flatnonzero(kept))
    for name in names:
        tensor = getattr(module, name, None)
        if not isinstance(tensor, Tensor):
            continue
        smaller = tensor.detach().index_select(axis, places.to(tensor.device)).contiguous()
        is_parameter = isinstance(tensor, nn.Parameter)
        setattr(module, name, nn.Parameter(smaller, requires_grad=tensor.requires_grad) if is_parameter else smaller)
    _state_sizes(module, len(places), axis)


def _state_sizes(module: nn.Module, size: int, axis: int) -> None:
    """Updates the attributes in which a module states the size of an axis of its weight."""
    if isinstance(module, nn.Conv2d):
        by_channel = module.groups > 1
        for name in ("out_channels", "in_channels", "groups") if by_channel else (("out_channels", "in_channels")[axis],):
            setattr(module, name, size)
    elif isinstance(module, nn.Linear):
        setattr(module, ("out_features", "in_features")[axis], size)
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_channels = size
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.num_features = size


def _keep_padding(shortcut: PadShortcut, kept: npt.NDArray[np.bool_]) -> None:
    before, after = shortcut.before, shortcut.after
    shortcut.before = int(kept[:before].sum())
    shortcut.after = int(kept[len(kept) - after :].sum())
