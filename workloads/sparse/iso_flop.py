"""Widens a model until its sparse form costs the FLOPs of the dense model (Sparse-IFT, the transformation Sparse Wide).

The paper widens each layer by 1 / sqrt(density). The first and the last layer have inputs and outputs that do not widen, so that
the network would then cost less than the dense one. Here one width is chosen for the whole network such that its FLOPs agree;
this is unverified against the paper, of which only the abstract was read.

Reference: Thangarasa et al. 2024, Sparse Iso-FLOP Transformations for Maximizing Training Efficiency (arXiv:2303.11525)
"""

import bisect
import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from pruneyard.workloads.masks.choice import choose_prunable
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.flops import forward_flops, macs_of
from pruneyard.workloads.plugins import name_of
from pruneyard.workloads.training.mask_updater import CountsWeights, MaskUpdater


def widened(
    model: ModelBuilder,
    method: MaskUpdater,
    *,
    image_shape: tuple[int, ...],
    num_outputs: int,
    prunable: tuple[str, ...] = (),
) -> ModelBuilder:
    """Returns the model with the width at which its FLOPs under the method's densities are nearest to those of the dense model.

    FLOPs are those of a forward pass, see `pruneyard.workloads.networks.flops`. prunable: as in a recipe.

    Raises `ValueError` for a model without a field `width`, and for a method that does not say how many weights a layer keeps.
    """
    if not isinstance(getattr(model, "width", None), int):
        raise ValueError(f"widen is true, but model {name_of(model)} has no width; choose a model with one, such as mlp")
    if not isinstance(method, CountsWeights):
        lacking = "does not say in advance how many weights layers keep; choose a method that does, such as set or rigl"
        raise ValueError(f"widen is true, but method {name_of(method)} {lacking}")
    found: ModelBuilder = _widened(model, method, image_shape, num_outputs, prunable)
    return found


@cache  # planning asks for the same model again and again
def _widened(table: Any, method: Any, image_shape: tuple[int, ...], num_outputs: int, prunable: tuple[str, ...]) -> Any:
    def flops(width: int) -> float:
        wide = dataclasses.replace(table, width=width)
        return sparse_flops(wide, method, image_shape=image_shape, num_outputs=num_outputs, prunable=prunable)

    target = forward_flops(macs_of(table, image_shape, num_outputs), {})
    widths = _Widths(first=table.width, step=_width_step(table, image_shape, num_outputs))
    end = 1
    while flops(widths[end]) <= target:
        end *= 2
    above = bisect.bisect_right(widths, target, lo=1, hi=end, key=flops)
    nearest = min(widths[above - 1], widths[above], key=lambda width: abs(flops(width) - target))
    return dataclasses.replace(table, width=nearest)


def sparse_flops(
    model: ModelBuilder,
    method: CountsWeights,
    *,
    image_shape: tuple[int, ...],
    num_outputs: int,
    prunable: Sequence[str] = (),
) -> float:
    """Returns the FLOPs of a forward pass of one input with the weights that the method keeps at its target density."""
    with torch.device("meta"):
        network = model.build(image_shape=image_shape, num_classes=num_outputs)
    choose_prunable(network, prunable)
    weights = prunable_weights(network)
    counts = method.counts(weights)
    macs = macs_of(model, image_shape, num_outputs)
    return sum(2 * count * (counts[name] / weights[name].numel() if name in counts else 1.0) for name, count in macs.items())


class _Widths(Sequence[int]):
    """The widths from the model's own upwards that it can be built with."""

    def __init__(self, *, first: int, step: int) -> None:
        self._first, self._step = first, step

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, place: Any) -> Any:
        return self._first + place * self._step


def _width_step(table: Any, image_shape: tuple[int, ...], num_outputs: int) -> int:
    """Returns the distance between two possible widths: above 1 where heads or groups must divide the width."""
    for step in range(1, table.width):
        try:
            with torch.device("meta"):
                dataclasses.replace(table, width=table.width + step).build(image_shape=image_shape, num_classes=num_outputs)
        except ValueError:
            continue
        return step
    return int(table.width)
