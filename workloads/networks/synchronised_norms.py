"""Batch norm by the statistics of the whole batch, whose rows are spread over several ranks.

Written with sums over ranks that can be differentiated as often as one likes, for any device that the ranks' group serves;
torch's `SyncBatchNorm` wants a GPU and is differentiated once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruneyard.workloads.ranks import Ranks, Share


@contextmanager
def synchronised_norms(network: nn.Module, *, ranks: Ranks, share: Share) -> Iterator[None]:
    """In the block batch norms in training mode see all ranks' rows. Every rank must pass its share through the network, as
    often as the others; gradients are of its own rows' loss, to be averaged with the weight of its share.
    """
    norms = (
        [module for module in network.modules() if isinstance(module, _BatchNorm)] if ranks.size > 1 else []
    )
    for norm in norms:
        norm.forward = partial(_normalised, norm, ranks=ranks, weight=share.weight)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalised(norm: _BatchNorm, inputs: Tensor, *, ranks: Ranks, weight: float) -> Tensor:
    """As the norm's own forward pass does; inputs: (N, C, ...) of this rank."""
    if not norm.training:
        return type(norm).forward(norm, inputs)
    norm._check_input_dim(inputs)
    x = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    over = [dim for dim in range(x.ndim) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(x.ndim)]

    def sum_over_ranks(part: Tensor) -> Tensor:
        found: Tensor = _Total.apply(part, ranks, weight)
        return found

    count = ranks.all_reduce_sum(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
    mean = sum_over_ranks(x.sum(over)) / count
    centred = x - mean.view(shape)
    variance = sum_over_ranks(centred.square().sum(over)) / count
    _follow(norm, mean.detach(), (variance * count / (count - 1)).detach())
    normal = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        normal = normal * norm.weight.view(shape) + norm.bias.view(shape)
    return normal.to(inputs.dtype)


def _follow(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics, as torch does; mean, variance: (C,)."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    factor = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, factor)
    norm.running_var.lerp_(variance, factor)


class _Total(torch.autograd.Function):
    """The sum over ranks of a tensor each. What flows back is summed too: each rank's is of its own loss, which counts by its
    weight in the loss of all.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks, weight: float) -> Tensor:
        ctx.ranks, ctx.weight = ranks, weight
        return ranks.all_reduce_sum(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        found = _Total.apply(gradient * ctx.weight, ctx.ranks, ctx.weight)
        return found / ctx.weight, None, None
