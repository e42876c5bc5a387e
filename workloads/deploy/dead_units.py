"""Removes units and filters from a network in eval mode without changing its outputs.

Pairs of layers are considered that an `nn.Sequential` runs one after the other, with nothing between them that mixes channels.
A unit of the first layer is dead if all weights that read it are zero, or if all its own weights are zero. In the latter case it
is a constant, which is propagated through norms and activations and added to the bias of the second layer. A constant other than
zero before a convolution with zero padding is not constant at the border, so that unit stays. Units that a residual sum connects
are never removed.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn

# All of them treat channels separately. `MaxPool2d` pads with -inf, so a constant stays constant at the border.
_PASSING = (
    nn.ReLU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two consecutive layers and the modules between them."""

    first: _Layer
    between: tuple[nn.Module, ...]
    second: _Layer


def dead_units(network: nn.Module) -> dict[str, int]:
    """Returns how many units can be removed, by the name of the layer's weight; layers without any are left out."""
    smaller = without_units(network)
    counts = {
        f"{path}.weight": len(layer.weight) - len(smaller.get_submodule(path).weight)  # type: ignore[arg-type]
        for path, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    return {name: count for name, count in counts.items() if count}


def without_units(network: nn.Module) -> nn.Module:
    """Returns a copy without dead units. A removal may leave other units dead, so it is repeated until there are none."""
    smaller = copy.deepcopy(network)
    with torch.no_grad():
        # `sum` visits all pairs in each round; `any` would stop at the first one that changes.
        while sum(_remove_dead_units(pair) for pair in _pairs(smaller)):
            pass
    return smaller.requires_grad_(False)


def resize(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives the layers and norms of a network on the meta device the sizes that `weights` have."""
    for path, module in network.named_modules():
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = weights.get(f"{path}.{name}")
            # `hasattr` is also true for a bias of None, which `_remove_dead_units` may have replaced by a tensor.
            if tensor is not None and hasattr(module, name):
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                # Assigning an `nn.Parameter` to the name of a buffer would turn the buffer into a parameter.
                is_buffer = name.startswith("running")
                requires_grad = getattr(getattr(module, name), "requires_grad", False)
                setattr(module, name, empty if is_buffer else nn.Parameter(empty, requires_grad=requires_grad))
        _state_sizes(module)


def _state_sizes(module: nn.Module) -> None:
    """Updates the size attributes of a module to match its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = (
            module.weight.shape[0],
            module.weight.shape[1] * module.groups,
        )
    elif isinstance(module, _BATCH_NORMS) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
    elif _is_instance_norm(module):
        module.num_groups = module.num_channels = len(module.weight)


def _is_instance_norm(module: nn.Module) -> TypeGuard[nn.GroupNorm]:
    # One channel per group; larger groups mix the statistics of channels.
    return isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels and module.affine


def _pairs(network: nn.Module) -> Iterator[Pair]:
    # A module or tensor that the network uses twice cannot shrink for one of its uses only.
    uses = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    tensors = Counter(id(p) for module in network.modules() for p in module.parameters(recurse=False))
    # Nested sequences are unrolled by `_steps`, so only the outermost ones are starting points.
    inner = {id(child) for m in network.modules() if isinstance(m, nn.Sequential) for child in m.children()}
    for module in network.modules():
        if isinstance(module, nn.Sequential) and id(module) not in inner:
            first: nn.Module | None = None
            between: list[nn.Module] = []
            for step in _steps(module):
                # The caller changes a pair while this generator waits in `yield`. The new parameters are not counted in
                # `tensors`, but no later step belongs to an earlier pair.
                alone = uses[id(step)] == 1 and all(tensors[id(p)] == 1 for p in step.parameters())
                if alone and _is_layer(step):
                    if first is not None and _joins(first, between, step):
                        yield Pair(first=first, between=tuple(between), second=step)  # type: ignore[arg-type]
                    first, between = step, []
                elif alone and _passes(step):
                    between.append(step)
                else:
                    # An unknown or shared module may mix channels, so nothing before it can be paired with a layer after it.
                    first, between = None, []


def _steps(sequence: nn.Sequential) -> Iterator[nn.Module]:
    """Yields the modules that a sequence runs; nested sequences are unrolled."""
    for step in sequence:
        yield from _steps(step) if isinstance(step, nn.Sequential) else (step,)


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        # With groups, an output reads only some of the channels.
        return module.groups == 1 and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear)


def _passes(module: nn.Module) -> bool:
    """Returns whether a module treats channels separately and maps constants to constants."""
    if isinstance(module, _BATCH_NORMS):
        # Without running statistics the norm uses those of the batch, in eval mode as well.
        return module.running_mean is not None and module.affine
    if isinstance(module, nn.AvgPool2d):
        # Zeros of the padding would enter the means at the border, and another divisor would change a constant.
        return module.padding in (0, (0, 0)) and not module.ceil_mode and module.divisor_override is None
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1 and module.end_dim == -1
    return isinstance(module, _PASSING) or _is_instance_norm(module)


def _joins(first: nn.Module, between: list[nn.Module], second: nn.Module) -> bool:
    """Returns whether the inputs of the second layer are the units of the first one in order."""
    flat = any(isinstance(step, nn.Flatten) for step in between)
    if isinstance(first, nn.Conv2d):
        # Without `Flatten`, a linear layer after a convolution reads the last image axis, not the channels.
        return flat == isinstance(second, nn.Linear)
    return isinstance(second, nn.Linear) and not any(_is_instance_norm(step) for step in between)


def _remove_dead_units(pair: Pair) -> bool:
    """Removes the dead units of a pair; returns False if there were none. At least one unit stays."""
    num_units = len(pair.first.weight)
    constants = _constants(pair)
    per_unit = pair.second.weight.shape[1] // num_units  # above 1 if feature maps are flattened
    read = pair.second.weight.reshape(len(pair.second.weight), num_units, -1)
    is_unread = (read == 0).all(2).all(0)
    is_constant = (pair.first.weight == 0).flatten(1).all(1)
    if isinstance(pair.second, nn.Conv2d) and pair.second.padding not in (0, (0, 0), "valid"):
        # A convolution with padding reads zeros at the border, so only the constant 0 is the same everywhere.
        is_constant &= constants == 0
    kept = ~(is_unread | is_constant)
    if not kept.any():
        kept[0] = True
    if kept.all():
        return False
    # A constant meets every weight that reads it: all kernel positions, or all flattened pixels. Units that are removed
    # because nothing reads them add 0, as these weights are 0.
    shift = (read.sum(2) * torch.where(kept, 0.0, constants)).sum(1)
    _keep(pair.first, kept)
    for step in pair.between:
        _keep(step, kept)
    # `Flatten` puts the pixels of one channel next to each other.
    columns = kept.repeat_interleave(per_unit)
    pair.second.weight = nn.Parameter(pair.second.weight[:, columns].contiguous(), requires_grad=False)
    if pair.second.bias is not None or bool(shift.any()):
        old = torch.zeros_like(shift) if pair.second.bias is None else pair.second.bias
        pair.second.bias = nn.Parameter(old + shift, requires_grad=False)
    _state_sizes(pair.second)
    return True


def _constants(pair: Pair) -> Tensor:
    """Returns the value (units,) of each unit after the modules in between if its output is its bias everywhere."""
    bias = pair.first.bias
    values = torch.zeros(len(pair.first.weight)) if bias is None else bias.clone()
    for step in pair.between:
        if isinstance(step, _BATCH_NORMS):
            assert step.running_mean is not None
            assert step.running_var is not None
            values = (values - step.running_mean) * torch.rsqrt(step.running_var + step.eps)
            values = values * step.weight + step.bias
        elif isinstance(step, nn.GroupNorm):
            values = step.bias.clone()  # a constant feature map equals its mean, so it is normalised to 0
        elif isinstance(step, nn.ReLU):
            values = values.relu()
    return values


def _keep(module: nn.Module, kept: Tensor) -> None:
    """Reduces the outputs of a module to the kept units."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(module, name, None)
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(tensor[kept].contiguous(), requires_grad=False))
        elif isinstance(tensor, Tensor):
            setattr(module, name, tensor[kept].contiguous())
    if _is_instance_norm(module):
        module.num_groups = module.num_channels = int(kept.sum())
    _state_sizes(module)
