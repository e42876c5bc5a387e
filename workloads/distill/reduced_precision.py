"""First-order gradients in bfloat16: those on real images, which are noisy targets anyway, and those that train networks.

Gradient matching stays in float32, since the images follow small differences between gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruneyard.workloads.distill import matching


@dataclass(frozen=True)
class BFloat16Gradients:
    """Replaces the functions of the same names in `matching`. `exact` computes gradients in full precision."""

    exact: matching.GradientFunctions

    def match_gradients(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        images: Tensor,
        labels: Tensor,
        targets: Sequence[Tensor],
        *,
        distance: str,
    ) -> tuple[Tensor, Tensor]:
        """See `matching.match_gradients`."""
        return self.exact.match_gradients(network, parameters, images, labels, targets, distance=distance)

    def chunked_gradient(
        self, network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, *, chunk: int
    ) -> list[Tensor]:
        """See `matching.chunked_gradient`. Weights, sums and results stay in float32."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return matching.chunked_gradient(network, parameters, images, labels, chunk=chunk)
