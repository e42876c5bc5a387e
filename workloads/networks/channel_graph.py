"""The graph of coupled channels of a network: which channels of which layers must be removed together.

The network is traced by `torch.fx`. Every value in it carries, for each entry of its axis of channels, the number of a group:
layers start new groups, sums join groups entry by entry, and flattening repeats them. Groups that something other than
convolutions, linear layers and norms by channel reads, such as a layer norm or attention, are fixed.

Reference: Wang, Rieck et al. 2024, Structurally Prune Anything: Any Architecture, Any Framework, Any Time (arXiv:2403.18955);
Fang et al. 2023, DepGraph: Towards Any Structural Pruning (arXiv:2301.12900)
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pruneyard.workloads.networks.attention_heads import AttentionOfHeads, can_lose_heads
from pruneyard.workloads.networks.flops import without_storage
from pruneyard.workloads.networks.residual import PadShortcut

FIXED = 0  # the group of all channels that cannot be removed
Groups = npt.NDArray[np.int64]

_BY_CHANNEL = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.ELU),
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d),
    *(nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
_FUNCTIONS_BY_CHANNEL = {
    *(torch.relu, functional.relu, functional.relu_, functional.gelu, functional.silu, functional.dropout),
    *(torch.sigmoid, torch.tanh, functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d),
    *("relu", "relu_", "sigmoid", "tanh", "contiguous"),
}
_SUMS = {operator.add, operator.iadd, operator.sub, operator.mul, torch.add, torch.mul, "add", "add_", "mul"}


class UntraceableError(ValueError):
    """A part of a network whose channels cannot be followed; the message names it."""


@dataclass(frozen=True, kw_only=True)
class ChannelGraph:
    """The group of every channel, by the path of its module; `FIXED` for a channel that must stay.

    outputs: of the rows of convolutions and linear layers. inputs: of the second axis of their weights, but for those that
        compute each channel by itself. norms: of the entries of norms.
    """

    outputs: Mapping[str, Groups]
    inputs: Mapping[str, Groups]
    norms: Mapping[str, Groups]
    pads: Mapping[str, Groups]  # of the outputs of shortcuts that pad channels
    heads: Mapping[str, Groups]  # of the channels in attention, of which those of a head are one group
    widths: Mapping[str, int]  # of the tokens that these attentions read and make

    @property
    def removable(self) -> list[int]:
        """The groups that can be removed, ascending."""
        found = {int(group) for groups in self.rows.values() for group in groups}
        return sorted(found - {FIXED})

    @property
    def rows(self) -> dict[str, Groups]:
        """`outputs`, with those of the projections of attention as `PATH.in_proj` and `PATH.out_proj`."""
        found = dict(self.outputs)
        for path, groups in self.heads.items():
            found |= {f"{path}.in_proj": np.tile(groups, 3), f"{path}.out_proj": np.full(self.widths[path], FIXED)}
        return found

    @property
    def columns(self) -> dict[str, Groups]:
        """`inputs`, with those of the projections of attention."""
        found = dict(self.inputs)
        for path, groups in self.heads.items():
            found |= {f"{path}.in_proj": np.full(self.widths[path], FIXED), f"{path}.out_proj": groups}
        return found


def channel_graph(network: nn.Module, image_shape: tuple[int, ...]) -> ChannelGraph:
    """Returns the graph of a network for inputs of a shape. Raises `UntraceableError` for a part that cannot be followed."""
    _check_not_tied(network)
    twin = without_storage(network).eval()
    try:
        traced = fx.GraphModule(twin, _Tracer().trace(twin))
    except (TypeError, ValueError, NameError, fx.proxy.TraceError) as error:
        raise UntraceableError(f"{type(network).__name__} cannot be traced: {error}") from error
    found = _Propagation(traced)
    dtype = next((parameter.dtype for parameter in twin.parameters()), torch.float32)
    with torch.no_grad():
        found.run(torch.empty((2, *image_shape), dtype=dtype, device="meta"))
    return found.result()


def _check_not_tied(network: nn.Module) -> None:
    """Raises `UntraceableError` for a tensor of two modules, which may need different channels of it."""
    owners: dict[int, str] = {}
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            first = owners.setdefault(id(parameter), name)
            if first != name:
                raise UntraceableError(f"{first} and {name} are one tensor, whose channels cannot be followed")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(module, PadShortcut | AttentionOfHeads) or super().is_leaf_module(module, module_qualified_name)


@dataclass(frozen=True)
class _Value:
    """A tensor on the meta device, with the groups of the entries of one axis; without groups it does not depend on channels."""

    tensor: Any
    groups: Groups | None = None
    axis: int = 1


class _Propagation(fx.Interpreter):
    """Runs a traced network on the meta device, on values with groups."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # it would be added to messages
        self._joined = [FIXED]  # by group: another group that it was joined with, or itself
        self._layers: dict[str, dict[str, Groups]] = {"outputs": {}, "inputs": {}, "norms": {}, "pads": {}, "heads": {}}
        self._widths: dict[str, int] = {}

    def result(self) -> ChannelGraph:
        """Returns the groups after all joins."""
        return ChannelGraph(
            **{
                part: {path: np.array([self._root(int(group)) for group in groups]) for path, groups in layers.items()}
                for part, layers in self._layers.items()
            },
            widths=self._widths,
        )

    def run_node(self, n: fx.Node) -> Any:
        """Computes one node. Raises `UntraceableError`, which names it, if it is unknown."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "placeholder":
            image = super().run_node(n)
            return _Value(image, self._fixed(image.shape[1]))
        if n.op == "get_attr":
            return _Value(super().run_node(n))
        if n.op == "output":
            self._fix(args[0])
            return args[0]
        plain_args, plain_kwargs = fx.node.map_aggregate((args, kwargs), _tensor_of)
        result = getattr(self, n.op)(n.target, plain_args, plain_kwargs)
        values = [value for value in args if isinstance(value, _Value) and value.groups is not None]
        if isinstance(result, torch.Size) or not isinstance(result, Tensor | tuple):
            return result  # a size, or a number
        if not values and n.target is not torch.cat:
            return _Value(result) if isinstance(result, Tensor) else result
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            if isinstance(module, nn.MultiheadAttention | AttentionOfHeads):
                self._record_heads(str(n.target), module, args, kwargs)
            return self._of_module(str(n.target), module, values[0], result)
        return self._of_function(n, args, kwargs, result)

    def _of_module(self, path: str, module: nn.Module, value: _Value, result: Any) -> Any:
        assert value.groups is not None
        if isinstance(module, nn.Conv2d | nn.Linear):
            return self._of_layer(path, module, value, result)
        if _is_norm_by_channel(module):
            self._record("norms", path, value.groups)
            return _Value(result, value.groups, value.axis)
        if isinstance(module, nn.Flatten):
            return self._flattened(value, result, path)
        if isinstance(module, PadShortcut):
            padded = np.concatenate([self._fixed(module.before), value.groups, self._fixed(module.after)])
            # What is padded is 0, and joins whatever it is added to; it must not be fixed, so that it gets groups of its own.
            padded[: module.before], padded[len(padded) - module.after :] = self._new(module.before), self._new(module.after)
            self._record("pads", path, padded)
            return _Value(result, padded, value.axis)
        if isinstance(module, nn.MultiheadAttention | AttentionOfHeads):
            self._fix(value)
            outputs, attention = result
            return _Value(outputs, self._fixed(outputs.shape[-1]), outputs.ndim - 1), attention
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d | nn.BatchNorm1d):
            self._fix(value)  # its statistics mix channels
            return _Value(result, value.groups, value.axis)
        if isinstance(module, _BY_CHANNEL):
            return _Value(result, value.groups, value.axis)
        raise UntraceableError(f"{path} is a {type(module).__name__}, through which channels cannot be followed")

    def _record_heads(self, path: str, module: nn.MultiheadAttention | AttentionOfHeads, args: Any, kwargs: Any) -> None:
        """Starts a group for each head of an attention from which heads can be removed: self-attention without masks."""
        is_plain = len(args) == 3 and args[0] is args[1] is args[2] and kwargs.keys() <= {"need_weights"}
        if is_plain and (isinstance(module, AttentionOfHeads) or can_lose_heads(module)):
            self._widths[path] = args[0].tensor.shape[-1]
            self._record("heads", path, self._new(module.num_heads).repeat(module.head_dim))

    def _of_layer(self, path: str, layer: nn.Conv2d | nn.Linear, value: _Value, result: Tensor) -> _Value:
        assert value.groups is not None
        axis = result.ndim - (1 if isinstance(layer, nn.Linear) else 3)
        if value.axis != axis:
            raise UntraceableError(f"{path} reads another axis than that of channels")
        groups = getattr(layer, "groups", 1)
        if groups == layer.weight.shape[0] == len(value.groups):  # each channel by itself
            self._record("outputs", path, value.groups)
            return _Value(result, value.groups, axis)
        if groups > 1:
            raise UntraceableError(f"{path} has {groups} groups of channels; only 1, or one for each channel, can be followed")
        self._record("inputs", path, value.groups)
        self._record("outputs", path, self._new(len(layer.weight)))
        return _Value(result, self._layers["outputs"][path], axis)

    def _of_function(self, node: fx.Node, args: Any, kwargs: Any, result: Any) -> Any:
        target, value = node.target, args[0]
        if target in _SUMS:
            return self._sum([arg for arg in args[:2] if isinstance(arg, _Value)], result, node)
        if target is torch.cat:
            return self._concatenated(list(args[0]), args[1] if len(args) > 1 else kwargs.get("dim", 0), result, node)
        if isinstance(value, _Value) and value.groups is not None:
            if target in _FUNCTIONS_BY_CHANNEL:
                return _Value(result, value.groups, value.axis)
            if target in (torch.flatten, "flatten"):
                return self._flattened(value, result, str(node))
            if target in (torch.transpose, "transpose"):
                first, second = (place % value.tensor.ndim for place in args[1:3])
                axis = {first: second, second: first}.get(value.axis, value.axis)
                return _Value(result, value.groups, axis)
            if target in (torch.mean, "mean") and value.axis not in _dims(args, kwargs, value.tensor.ndim):
                return _Value(result, value.groups, value.axis - _below(args, kwargs, value))
            if target is operator.getitem:
                return self._selected(value, args[1], result, node)
        if target is operator.getitem and isinstance(value, tuple):
            return value[args[1]]
        raise UntraceableError(f"{node} is a call of {_name(target)}, through which channels cannot be followed")

    def _sum(self, values: list[_Value], result: Tensor, node: fx.Node) -> _Value:
        followed = [value for value in values if value.groups is not None]
        first = followed[0]
        assert first.groups is not None
        for other in values:
            if other is first:
                continue
            if other.groups is None:  # a parameter or a table of positions
                self._fix(first)
            elif other.axis == first.axis and len(other.groups) == len(first.groups):
                self._join(first.groups, other.groups)
            else:
                raise UntraceableError(f"{node} combines different axes of channels")
        return _Value(result, first.groups, first.axis)

    def _concatenated(self, values: list[_Value], dim: int, result: Tensor, node: fx.Node) -> _Value:
        followed = [value for value in values if value.groups is not None]
        if not followed:
            return _Value(result)
        axis = followed[0].axis
        if any(value.axis != axis for value in followed):
            raise UntraceableError(f"{node} combines different axes of channels")
        parts = [self._fixed(v.tensor.shape[axis]) if v.groups is None else v.groups for v in values]
        if dim % result.ndim == axis:
            return _Value(result, np.concatenate(parts), axis)
        for part in parts[1:]:
            self._join(parts[0], part)
        return _Value(result, parts[0], axis)

    def _flattened(self, value: _Value, result: Tensor, name: str) -> _Value:
        """Each channel becomes as many neighbours as it has pixels, unless it is on an axis that stays."""
        assert value.groups is not None
        if result.ndim > value.axis and result.shape[value.axis] == len(value.groups):
            return _Value(result, value.groups, value.axis)
        if result.ndim == value.axis + 1 and value.tensor.shape[: value.axis] == result.shape[: value.axis]:
            return _Value(result, value.groups.repeat(result.shape[-1] // len(value.groups)), value.axis)
        raise UntraceableError(f"{name} flattens channels together with an axis before them")

    def _selected(self, value: _Value, index: Any, result: Tensor, node: fx.Node) -> _Value:
        places = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(place, int | slice) for place in places):
            raise UntraceableError(f"{node} selects by a tensor, through which channels cannot be followed")
        if value.axis < len(places) and places[value.axis] != slice(None):
            raise UntraceableError(f"{node} selects some of the channels")
        return _Value(result, value.groups, value.axis - sum(isinstance(place, int) for place in places[: value.axis]))

    def _record(self, part: str, path: str, groups: Groups) -> None:
        """Stores the groups of a module; those of its second use are joined with the first ones."""
        known = self._layers[part].setdefault(path, groups)
        if known is not groups:
            self._join(known, groups)

    def _new(self, count: int) -> Groups:
        first = len(self._joined)
        self._joined.extend(range(first, first + count))
        return np.arange(first, first + count)

    def _fixed(self, count: int) -> Groups:
        return np.full(count, FIXED)

    def _fix(self, value: Any) -> None:
        if isinstance(value, _Value) and value.groups is not None:
            self._join(value.groups, self._fixed(len(value.groups)))

    def _join(self, one: Groups, other: Groups) -> None:
        for first, second in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted((self._root(first), self._root(second)))
            self._joined[high] = low

    def _root(self, group: int) -> int:
        while self._joined[group] != group:
            self._joined[group] = self._joined[self._joined[group]]
            group = self._joined[group]
        return group


def _is_norm_by_channel(module: nn.Module) -> bool:
    """Returns whether a norm uses statistics of each channel alone."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels
    return isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None


def _dims(args: Any, kwargs: Any, ndim: int) -> list[int]:
    """Returns the axes of a mean, all if none is given."""
    dims = args[1] if len(args) > 1 else kwargs.get("dim", tuple(range(ndim)))
    return [dim % ndim for dim in (dims if isinstance(dims, tuple | list) else (dims,))]


def _below(args: Any, kwargs: Any, value: _Value) -> int:
    """Returns how many axes before that of channels a mean removes."""
    keeps = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    return 0 if keeps else sum(dim < value.axis for dim in _dims(args, kwargs, value.tensor.ndim))


def _tensor_of(value: Any) -> Any:
    return value.tensor if isinstance(value, _Value) else value


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
