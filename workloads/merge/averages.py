"""Weighted means of networks, tensor by tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import Tensors


def weighted_mean(networks: Sequence[Tensors], shares: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Returns the mean of parameters and buffers; of counters, such as the batches that a norm has seen, the largest.

    shares: of each network, any positive numbers; by default equal ones. A mean of copies is the copy bit for bit.
    """
    factors = [1.0] * len(networks) if shares is None else list(shares)
    return {name: _mean([network[name] for network in networks], factors) for name in networks[0]}


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return torch.stack(list(tensors)).amax(0)
    if all(torch.equal(first, tensor) for tensor in tensors[1:]):
        return first.clone()  # the quotient below could be one rounding away
    # In float64, so that the order of the networks hardly matters.
    total = sum((share * tensor.double() for share, tensor in zip(shares, tensors, strict=True)), torch.zeros(()).double())
    return (total / sum(shares)).to(first.dtype)
