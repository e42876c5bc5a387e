"""Distances between the statistics of a batch of images and the running statistics of a network's batch norms."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class StatisticsGaps(NamedTuple):
    """The L2 distances of means and of variances per batch norm, in the order of the forward pass, each (L,)."""

    mean: Tensor
    variance: Tensor


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Returns the batch norms that have running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def outputs_and_gaps(network: nn.Module, images: Tensor) -> tuple[Tensor, StatisticsGaps]:
    """Returns logits (B, K) and gaps, differentiable by the images; the batch's variances are biased (divided by its size)."""
    means: list[Tensor] = []
    variances: list[Tensor] = []

    def record(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        # In eval mode the norm uses its running statistics, so those of the batch are measured here: (B, C, ...) to (C, -1).
        variance, mean = torch.var_mean(inputs[0].transpose(0, 1).flatten(1), dim=1, correction=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        means.append((mean - norm.running_mean).norm())
        variances.append((variance - norm.running_var).norm())

    handles = [norm.register_forward_pre_hook(record) for norm in batch_norms(network)]
    try:
        outputs = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, StatisticsGaps(torch.stack(means), torch.stack(variances))
