"""Measures whether a linear layer or an embedding trains faster with stored values than with a masked dense weight."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pruneyard.workloads.execution.modules import SparseEmbedding, SparseLinear
from pruneyard.workloads.masks.sparse_index import SparseIndex

REPETITIONS = 3


def is_sparse_faster(index: SparseIndex, *, rows: int, dtype: torch.dtype) -> bool:
    """Returns whether a step of a linear layer under this index takes less time stored sparse than masked.

    A step is the forward pass on `(rows, inputs)`, the backward pass, and an update with momentum; masked, also the product of
    gradient and mask. The fastest of `REPETITIONS` steps on random numbers counts, after one that warms up.
    """
    outputs, inputs = index.matrix
    device = index.columns.device
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device=device)

    images, gradient = random(rows, inputs).requires_grad_(), random(rows, outputs)
    values = random(index.num_active)
    layer = nn.Linear(inputs, outputs, bias=False, device="meta", dtype=dtype)
    layer.weight = nn.Parameter(values)
    sparse = _fastest(SparseLinear(layer, index), images, gradient, mask=None)
    layer.weight = nn.Parameter(index.dense(values).reshape(index.matrix))
    masked = _fastest(layer, images, gradient, mask=index.mask().reshape(index.matrix).to(dtype))
    return sparse < masked


def is_lookup_faster(index: SparseIndex, *, rows: int, dtype: torch.dtype) -> bool:
    """Returns what `is_sparse_faster` does for an embedding of which a step looks up random rows, `rows` of them."""
    num, size = index.matrix
    device = index.columns.device
    generator = torch.Generator(device).manual_seed(0)
    codes = torch.randint(num, (rows,), generator=generator, device=device)
    gradient = torch.randn((rows, size), generator=generator, dtype=dtype, device=device)
    values = torch.randn(index.num_active, generator=generator, dtype=dtype, device=device)
    layer = nn.Embedding(num, size, device="meta", dtype=dtype)
    layer.weight = nn.Parameter(values)
    sparse = _fastest(SparseEmbedding(layer, index), codes, gradient, mask=None)
    layer.weight = nn.Parameter(index.dense(values))
    return sparse < _fastest(layer, codes, gradient, mask=index.mask().to(dtype))


def _fastest(
    layer: nn.Linear | nn.Embedding | SparseEmbedding, images: Tensor, gradient: Tensor, *, mask: Tensor | None
) -> float:
    """Returns the shortest time of a step in seconds."""
    optimizer = torch.optim.SGD([layer.weight], lr=1e-6, momentum=0.9, fused=True)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        images.grad = None
        layer(images).backward(gradient)
        if mask is not None and layer.weight.grad is not None:
            layer.weight.grad.mul_(mask)
        optimizer.step()

    step()
    return min(_seconds(step, images.device) for _ in range(REPETITIONS))


def _seconds(act: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
