"""The protocol of export formats: whether a format supports a network, how it runs the network, and the file it writes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pruneyard.workloads.networks.finished import FinishedNetwork

SUM_ORDER = 1e-3
"""Tolerance of formats that add the same float32 products in a different order.

The relative error of a sum is about 1e-7. A norm over a nearly constant feature map magnifies it by up to 1 / sqrt(1e-5), which
is 300, and very sparse networks do have such maps.
"""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The result of checking whether a format supports a network.

    refusal: the reason if the format does not support the network, otherwise empty.
    dense: the reasons why layers stay dense, by the name of their weight.
    """

    refusal: str = ""
    dense: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported network that can run.

    run: maps images (B, C, H, W) float32 to logits (B, num_classes).
    kernels: the name of the kernel of each layer, by the name of its weight. A kernel whose name begins with `dense` does not
        skip zeros.
    """

    run: Callable[[Tensor], Tensor]
    kernels: Mapping[str, str]


class Format(Protocol):
    """An export format: a frozen dataclass in `workloads/deploy/formats`."""

    tolerance: ClassVar[float]  # largest allowed difference from the dense logits, as a share of the largest dense logit
    device: ClassVar[torch.device]  # device of the exported network and of its dense baseline
    dtype: ClassVar[torch.dtype]  # of both networks, so that a shorter type does not count as a gain from sparsity

    def fit(self, finished: FinishedNetwork) -> Fit:
        """Returns whether this format supports the network on this machine, with reasons for refusal and for dense layers."""
        ...

    def build(self, finished: FinishedNetwork, *, batch_size: int) -> Exported:
        """Returns the network in this format. It accepts any batch; kernels are chosen for `batch_size`.

        Raises `ValueError` if `fit` refuses the network.
        """
        ...

    def encode(self, finished: FinishedNetwork) -> bytes:
        """Returns the content of the exported file. Raises `ValueError` if `fit` refuses the network."""
        ...


def check_fit(fit: Fit) -> None:
    """Raises `ValueError` with the reason if the format refuses the network."""
    if fit.refusal:
        raise ValueError(fit.refusal)


def relative_difference(outputs: Tensor, expected: Tensor) -> float:
    """Returns the largest difference of two sets of logits, as a share of the largest expected logit."""
    scale = float(expected.abs().max())
    distance = float((outputs.to(expected) - expected).abs().max())
    # If all expected logits are 0 there is no share, so the difference itself is returned.
    return distance / scale if scale else distance
