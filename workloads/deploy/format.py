"""The protocol of a format plug-in: whether it can take a network, how it runs one, and what it writes of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pruneyard.workloads.networks.finished import FinishedNetwork

SUM_ORDER = 1e-3
"""Tolerance of formats that add the same float32 products in another order.

One sum is off by about 1e-7 of itself; a norm over a map that is nearly constant magnifies that by up to
1 / sqrt(1e-5), which is 300, and very sparse networks do have such maps.
"""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether a format can take a network. `refusal` is empty where it can; `dense` says by weight why one stays dense."""

    refusal: str = ""
    dense: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A network that runs: images (B, C, H, W) float32 to logits (B, num_classes). `kernels`: what computes each weight.

    A kernel whose name begins with `dense` does not skip zeros.
    """

    run: Callable[[Tensor], Tensor]
    kernels: Mapping[str, str]


class Format(Protocol):
    """A frozen dataclass in `workloads/deploy/formats`."""

    tolerance: ClassVar[float]  # how far logits may be off the dense ones, as a share of the largest of them
    device: ClassVar[torch.device]  # where it runs, and its dense twin too
    dtype: ClassVar[torch.dtype]  # what both compute in: a shorter type is no gain of sparsity

    def fit(self, finished: FinishedNetwork) -> Fit:
        """Whether this format can take the network on this machine, and why it, or a layer, cannot be taken."""
        ...

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """The network in this format; it takes any batch, and a choice among kernels is made for `batch_size`.

        Raises `ValueError` where `fit` refuses.
        """
        ...

    def encode(self, finished: FinishedNetwork) -> bytes:
        """The content of the exported file. Raises `ValueError` where `fit` refuses."""
        ...


def check_fit(fit: Fit) -> None:
    """Raises `ValueError` with the reason where the format refuses."""
    if fit.refusal:
        raise ValueError(fit.refusal)


def relative_difference(outputs: Tensor, expected: Tensor) -> float:
    """The largest distance of two sets of logits, as a share of the largest expected one."""
    scale = float(expected.abs().max())
    distance = float((outputs.to(expected) - expected).abs().max())
    return distance / scale if scale else distance
