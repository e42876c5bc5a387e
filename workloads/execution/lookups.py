"""The lookup of rows of a weight that is stored as values and index, and how often a network looks rows up."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pruneyard.workloads.execution.captured import Captured, CapturedLookup
from pruneyard.workloads.masks.sparse_index import SparseIndex
from pruneyard.workloads.networks.flops import without_storage


def lookup(codes: Tensor, values: Tensor, *, index: SparseIndex, captured: list[Captured] | None) -> Tensor:
    """Returns the rows of the weight with the numbers `codes (n,)`, dense: `(n, inputs)`.

    captured: where the backward pass adds what the dense gradient of the weight is computed from; None: nowhere.
    """
    rows: Tensor = _Lookup.apply(values, codes, index, captured)
    return rows


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, codes: Tensor, index: SparseIndex, captured: list[Captured] | None) -> Tensor:
        first = index.starts[codes].long()
        counts = index.starts[codes + 1].long() - first
        # Stored values of the rows one after another: which of the lookups each belongs to, and its place among the values.
        number = torch.repeat_interleave(torch.arange(len(codes), device=codes.device), counts)
        places = torch.arange(len(number), device=codes.device) + (first - counts.cumsum(0) + counts)[number]
        targets = number * index.matrix[1] + index.columns[places]
        ctx.save_for_backward(codes, places, targets)
        ctx.num_active, ctx.captured = len(values), captured
        flat = values.new_zeros(len(codes) * index.matrix[1])
        return flat.index_copy_(0, targets, values[places]).reshape(len(codes), -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, places, targets = ctx.saved_tensors
        if ctx.captured is not None:
            ctx.captured.append(CapturedLookup(codes=codes, at_rows=gradient))
        at_values = gradient.new_zeros(ctx.num_active)
        return at_values.index_add_(0, places, gradient.flatten()[targets]), None, None, None


def lookups_per_image(model: nn.Module, image_shape: tuple[int, ...]) -> Mapping[str, int]:
    """Returns how many rows of each embedding a forward pass looks up, by the name of its weight.

    `image_shape` is (C, H, W). Runs a copy on the meta device with one image.
    """
    twin, counts = without_storage(model).eval(), Counter[str]()
    dtype = next((parameter.dtype for parameter in twin.parameters()), torch.float32)
    names = {id(parameter): name for name, parameter in twin.named_parameters()}

    def count(layer: nn.Embedding, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        counts[names[id(layer.weight)]] += inputs[0].numel()

    embeddings = [layer for layer in twin.modules() if isinstance(layer, nn.Embedding)]
    for layer in embeddings:
        layer.register_forward_hook(count)
    if embeddings:
        with torch.no_grad():
            twin(torch.empty((1, *image_shape), dtype=dtype, device="meta"))
    return counts
