"""Structured pruning before a training: whole channels are removed from its network, which then trains as a smaller dense one.

Channels that are coupled, such as those of a residual sum, are removed together. The importance of such a group is that of SPA
with magnitudes, or random as a control. Unverified, because only the abstract was read: the magnitudes of a channel's weights
are averaged in each layer that makes or reads it, divided by the mean magnitude of that layer, and averaged over these layers.

Reference: Wang, Rieck et al. 2024, Structurally Prune Anything: Any Architecture, Any Framework, Any Time (arXiv:2403.18955)
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pruneyard.workloads.models.narrowed import Narrowed
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.channel_graph import ChannelGraph, channel_graph
from pruneyard.workloads.networks.flops import network_macs
from pruneyard.workloads.networks.narrowing import kept_channels, without_groups
from pruneyard.workloads.seeding import global_stream, stream
from pruneyard.workloads.training.initial_weights import InitialWeights
from pruneyard.workloads.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Narrow:
    """The table `narrow`: how many channels are removed, and by which importance; by default none.

    flops: largest share of the forward pass's FLOPs that is left, in (0, 1].
    importance: of a group of coupled channels; the least important ones are removed first.
    """

    flops: float = 1.0
    importance: Literal["magnitude", "random"] = "magnitude"

    def __post_init__(self) -> None:
        if not 0 < self.flops <= 1:
            raise ValueError(f"flops is {self.flops}; it must lie in (0, 1]")
        if self.importance not in ("magnitude", "random"):
            raise ValueError(f"importance is {self.importance!r}; it must be magnitude or random")

    def check(self, network: nn.Module, image_shape: tuple[int, ...]) -> None:
        """Raises `ValueError` if channels are to be removed from a network that cannot be traced, on any device."""
        if self.flops < 1:
            channel_graph(network, image_shape)

    def removed(self, network: nn.Module, image_shape: tuple[int, ...], *, seed: int) -> tuple[ChannelGraph, set[int]]:
        """Returns the graph of a network, and the least important groups, as many as must go.

        Every layer keeps at least one channel. Raises `ValueError` if the network cannot be traced or made as small.
        """
        graph = channel_graph(network, image_shape)
        if self.importance == "random":
            values = torch.rand(len(graph.removable), generator=stream(seed, "narrow"))
            scores = dict(zip(graph.removable, values.tolist(), strict=True))
        else:
            scores = group_magnitudes(network, graph)
        size = _Size(graph, network_macs(network, image_shape))
        target, removed = self.flops * size.flops, set[int]()
        for group in sorted(scores, key=lambda group: (scores[group], group)):
            if size.flops <= target:
                break
            if size.remove(group):
                removed.add(group)
        if size.flops > target:
            least = size.flops / target * self.flops
            raise ValueError(f"narrow.flops is {self.flops}; at least {least:.3g} is left when every layer keeps one channel")
        return graph, removed

    def applied(
        self, recipe: Recipe, model: ModelBuilder, *, image_shape: tuple[int, ...], num_outputs: int, seed: int
    ) -> tuple[Recipe, ModelBuilder]:
        """Returns the recipe and the model of the smaller network, which starts with the weights that are left.

        Raises `ValueError` as `removed` does, and for patterns of prunable weights.
        """
        if self.flops == 1:
            return recipe, model
        with global_stream(seed, "init"):
            network = model.build(image_shape=image_shape, num_classes=num_outputs)
        recipe.initial.load_into(network)
        graph, removed = self.removed(network, image_shape, seed=seed)
        smaller = Narrowed(base=model, channels=tuple(kept_channels(graph, removed).items()))
        weights = without_groups(network, graph, removed).state_dict()
        return replace(recipe, initial=GivenWeights(tensors=weights)), smaller


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenWeights(InitialWeights):
    """Weights that are in memory."""

    tensors: Mapping[str, Tensor]

    @property
    def is_given(self) -> bool:
        """Always True."""
        return True

    def __post_init__(self) -> None:
        pass

    def load_into(self, network: nn.Module) -> None:
        """Copies the weights into a network."""
        network.load_state_dict(dict(self.tensors))


def group_magnitudes(network: nn.Module, graph: ChannelGraph) -> dict[int, float]:
    """Returns the importance of every group that can be removed, by its number; 1 is that of an average channel."""
    found: dict[int, list[float]] = {group: [] for group in graph.removable}
    weights = dict(network.named_parameters())
    for side, axis in ((graph.rows, 0), (graph.columns, 1)):
        for path, groups in side.items():
            weight = weights[_weight_name(path, weights)]
            magnitudes = weight.detach().double().abs().transpose(0, axis).flatten(1).mean(1)
            mean = magnitudes.mean().clamp(min=torch.finfo(torch.float64).tiny)
            for group in np.unique(groups).tolist():
                if group in found:
                    found[group].append(float((magnitudes[torch.from_numpy(groups == group)] / mean).mean()))
    return {group: sum(values) / len(values) for group, values in found.items()}


def _weight_name(path: str, names: Collection[str]) -> str:
    """Returns the name of the weight of a layer, or of a projection of torch's attention, among names of parameters."""
    return f"{path}.weight" if f"{path}.weight" in names or f"{path}_weight" not in names else f"{path}_weight"


class _Size:
    """The FLOPs of a network while groups are removed from it."""

    def __init__(self, graph: ChannelGraph, macs: Mapping[str, int]) -> None:
        self._counts = [  # of both sides of every layer: how many channels each group has
            {path: Counter(groups.tolist()) for path, groups in side.items()} for side in (graph.rows, graph.columns)
        ]
        self._left = [{path: len(groups) for path, groups in side.items()} for side in (graph.rows, graph.columns)]
        own = {path: macs.get(_weight_name(path, macs), 0) for path in graph.rows}
        self._per_weight = {path: count / self._area(path) for path, count in own.items()}
        # A channel of a head multiplies all tokens with all tokens twice: for its queries and keys, and for its values.
        self._per_head_channel = {f"{path}.out_proj": 2 * self._per_weight[f"{path}.in_proj"] ** 2 for path in graph.heads}
        products = sum(count * self._left[1][path] for path, count in self._per_head_channel.items())
        self._rest = sum(macs.values()) - sum(own.values()) - products

    @property
    def flops(self) -> float:
        """FLOPs of a forward pass of one input."""
        of_weights = sum(count * self._area(path) for path, count in self._per_weight.items())
        return 2 * (self._rest + of_weights + sum(count * self._left[1][path] for path, count in self._per_head_channel.items()))

    def remove(self, group: int) -> bool:
        """Removes a group unless a layer would lose its last channel; returns whether it did."""
        after = [
            {path: size - counts[path][group] for path, size in left.items()}
            for left, counts in zip(self._left, self._counts, strict=True)
        ]
        if any(size < 1 for side in after for size in side.values()):
            return False
        self._left = after
        return True

    def _area(self, path: str) -> int:
        """Rows times columns of a layer's weight."""
        outputs, inputs = self._left
        return outputs[path] * inputs.get(path, 1)
