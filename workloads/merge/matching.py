"""Permutations of the channels of one network that bring its weights close to those of another (weight matching).

Channels that the graph of a network couples are moved together, so that the function of the network stays the same. Channels are
interchangeable if they stand in the same layers, equally often; a block is a set of interchangeable channels.

Reference: Ainsworth, Hayase and Srinivasa 2022, Git Re-Basin: Merging Models modulo Permutation Symmetries (arXiv:2209.04836)
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.networks.channel_graph import FIXED, ChannelGraph

MAX_SWEEPS = 100  # a sweep without progress ends the search long before, usually after two or three
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a tensor whose entries belong to the channels of a block.

    places: (channels, entries of each channel), the positions on the axis.
    compared: whether the tensor decides which channels match; running statistics follow.
    """

    tensor: str
    axis: int
    places: Places
    compared: bool

    def rows(self, tensors: Tensors) -> Tensor:
        """Returns the entries of every channel, (channels, entries), in float64."""
        tensor = tensors[self.tensor].movedim(self.axis, 0)
        chosen = tensor[torch.from_numpy(self.places.ravel())].double()
        return chosen.reshape(len(self.places), -1)

    def moved(self, tensor: Tensor, order: Sequence[int]) -> Tensor:
        """Returns the tensor with the entries of channel `order[i]` in the place of channel i."""
        source = torch.arange(tensor.shape[self.axis])
        source[torch.from_numpy(self.places.ravel())] = torch.from_numpy(self.places[list(order)].ravel())
        return tensor.index_select(self.axis, source)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Interchangeable channels, and every axis on which they stand."""

    size: int
    axes: tuple[Axis, ...]

    def similarity(self, reference: Tensors, tensors: Tensors) -> npt.NDArray[np.float64]:
        """Returns (channels, channels): the inner product of channel i of the reference and channel j of the other network."""
        total = torch.zeros(self.size, self.size, dtype=torch.float64)
        for axis in self.axes:
            if axis.compared:
                total += axis.rows(reference) @ axis.rows(tensors).T
        return total.numpy()

    def permuted(self, tensors: Tensors, order: Sequence[int]) -> dict[str, Tensor]:
        """Returns a network, or its masks, with channel `order[i]` in the place of channel i; absent tensors stay absent."""
        found = dict(tensors)
        for axis in self.axes:
            if axis.tensor in found:
                found[axis.tensor] = axis.moved(found[axis.tensor], order)
        return found


def blocks_of(graph: ChannelGraph, tensors: Tensors) -> list[Block]:
    """Returns the blocks of at least two channels, in the order of the network.

    tensors: all parameters and buffers by name.
    """
    standing: dict[int, list[tuple[str, int]]] = defaultdict(list)
    places: dict[tuple[str, int], dict[int, list[int]]] = {}
    for name, axis, groups in _axes(graph, tensors):
        by_group = places.setdefault((name, axis), defaultdict(list))
        for position, group in enumerate(groups.tolist()):
            if group != FIXED:
                by_group[group].append(position)
                standing[group].append((name, axis))
    alike: dict[tuple[tuple[str, int], ...], list[int]] = defaultdict(list)
    for group, where in standing.items():
        alike[tuple(sorted(where))].append(group)
    return [_block(groups, where, places) for where, groups in alike.items() if len(groups) > 1]


def _block(
    groups: Sequence[int], where: Sequence[tuple[str, int]], places: Mapping[tuple[str, int], Mapping[int, list[int]]]
) -> Block:
    axes = [
        Axis(
            tensor=name,
            axis=axis,
            places=np.array([places[name, axis][group] for group in groups]),
            compared=not name.endswith(("running_mean", "running_var")),
        )
        for name, axis in dict.fromkeys(where)
    ]
    return Block(size=len(groups), axes=tuple(axes))


def _axes(graph: ChannelGraph, tensors: Tensors) -> Iterator[tuple[str, int, npt.NDArray[np.int64]]]:
    """Yields every axis of a tensor that has channels, with their groups."""
    parts = [(graph.outputs, ("weight", "bias"), 0), (graph.inputs, ("weight",), 1)]
    parts += [(graph.norms, ("weight", "bias", "running_mean", "running_var"), 0)]
    for by_path, leaves, axis in parts:
        for path, groups in by_path.items():
            for leaf in leaves:
                if (name := f"{path}.{leaf}") in tensors:
                    yield name, axis, groups


def matched(
    reference: Tensors, tensors: Tensors, blocks: Sequence[Block], masks: Tensors
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns a network and its masks, with permuted channels, so that its weights are close to the reference.

    One block after the other gets the best permutation while the others stay, until a sweep over all blocks improves nothing.
    Each change raises the inner product of the two networks, so the search ends; the result is a local optimum.
    """
    weights, masks = dict(tensors), dict(masks)
    for _ in range(MAX_SWEEPS):
        improved = False
        for block in blocks:
            similarity = block.similarity(reference, weights)
            _, order = linear_sum_assignment(similarity, maximize=True)
            gain = similarity[np.arange(block.size), order].sum() - np.trace(similarity)
            if gain <= 1e-9 * np.abs(similarity).sum() / block.size:
                continue
            changed = block.permuted(weights, order)
            # Where a block stands on both axes of a weight, the assignment is the best for one of them at a time only.
            if inner_product(reference, changed, block) > inner_product(reference, weights, block):
                weights, masks, improved = changed, block.permuted(masks, order), True
        if not improved:
            break
    return weights, masks


def inner_product(one: Tensors, other: Tensors, block: Block) -> float:
    """Returns the inner product of two networks over the tensors on which a block stands and that are compared."""
    names = dict.fromkeys(axis.tensor for axis in block.axes if axis.compared)
    return float(sum((one[name].double() * other[name].double()).sum() for name in names))


def distance(one: Tensors, other: Tensors, names: Sequence[str]) -> float:
    """Returns the Euclidean distance of two networks over the named tensors."""
    return math.sqrt(sum(float((one[name].double() - other[name].double()).square().sum()) for name in names))
