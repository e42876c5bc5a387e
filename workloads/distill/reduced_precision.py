"""First-order gradients in bfloat16: those on real images, a target with noise of its own, and those that train networks.

The gradients of synthetic images stay in float32, since the images follow their differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneyard.workloads.distill import matching


@dataclass(frozen=True)
class BFloat16:
    """Stands in for the functions of the same names in `matching`. `exact` computes what is not reduced."""

    exact: matching.Ways

    def matched(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        images: Tensor,
        labels: Tensor,
        wanted: Sequence[Tensor],
        *,
        by: str,
    ) -> tuple[Tensor, Tensor]:
        """See `matching.matched`."""
        return self.exact.matched(network, parameters, images, labels, wanted, by=by)

    def chunked_gradient(
        self, network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, chunk: int
    ) -> list[Tensor]:
        """See `matching.chunked_gradient`; float32 outside, as weights and sums are."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return matching.chunked_gradient(network, parameters, images, labels, chunk=chunk)
