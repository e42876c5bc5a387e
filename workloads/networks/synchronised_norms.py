"""Batch norm with the statistics of the whole batch, whose rows are distributed over several ranks.

It uses sums over ranks that can be differentiated any number of times, on every device that the process group supports;
torch's `SyncBatchNorm` needs a GPU and can be differentiated only once.
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
    """Makes batch norms in training mode use the rows of all ranks in the block.

    Every rank must pass its share through the network equally often. Gradients are those of the loss on its own rows, to be
    averaged with the weight of its share.
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
    """Computes the norm's forward pass with sums over ranks; inputs: (N, C, ...), the rows of this rank."""
    if not norm.training:
        return type(norm).forward(norm, inputs)
    norm._check_input_dim(inputs)
    x = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    over = [dim for dim in range(x.ndim) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(x.ndim)]

    def sum_over_ranks(part: Tensor) -> Tensor:
        summed: Tensor = _SumOverRanks.apply(part, ranks, weight)
        return summed

    count = ranks.all_reduce_sum(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
    mean = sum_over_ranks(x.sum(over)) / count
    centred = x - mean.view(shape)
    variance = sum_over_ranks(centred.square().sum(over)) / count
    _update_running_statistics(norm, mean.detach(), (variance * count / (count - 1)).detach())
    normal = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        normal = normal * norm.weight.view(shape) + norm.bias.view(shape)
    return normal.to(inputs.dtype)


def _update_running_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Updates the running statistics as torch does; mean, variance: (C,)."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    factor = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, factor)
    norm.running_var.lerp_(variance, factor)


class _SumOverRanks(torch.autograd.Function):
    """The differentiable sum of a tensor over ranks.

    Backward also sums over ranks: each rank's gradient is that of its own loss, which has the weight of its share in the total.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks, weight: float) -> Tensor:
        ctx.ranks, ctx.weight = ranks, weight
        return ranks.all_reduce_sum(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        found = _SumOverRanks.apply(gradient * ctx.weight, ctx.ranks, ctx.weight)
        return found / ctx.weight, None, None
