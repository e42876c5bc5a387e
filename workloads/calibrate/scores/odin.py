"""ODIN: maximum softmax probability at a high temperature, after perturbing the input.

The image moves towards the predicted class by eps along the sign of the gradient; eps is in units of pixels in [0, 1], so
normalised images move by eps / std of their channel. Both passes use the temperature. The score costs two more forward passes
and a backward pass.

Reference: Liang, Li and Srikant 2018, Enhancing the Reliability of Out-of-distribution Image Detection (arXiv:1706.02690)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.calibrate.evidence import NETWORK, Evidence, Floats
from pruneyard.workloads.calibrate.score import Immediate
from pruneyard.workloads.interfaces import known_range
from pruneyard.workloads.metrics.detection import confidence_scores

__all__ = ["ODIN"]


@dataclass(frozen=True, kw_only=True)
class ODIN(Immediate):
    """Score max_k log softmax(z(x') / T)_k, x' = x - eps sign(gradient of the predicted class's loss)."""

    needs: ClassVar[frozenset[str]] = frozenset({NETWORK})
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
        {"temperature": (1.0, 10.0, 100.0, 1000.0), "eps": (0.0014, 0.0028)}
    )

    temperature: float = 1000.0
    eps: float = 0.0014  # fraction of the range from black to white

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if not self.eps >= 0:
            raise ValueError(f"eps is {self.eps}; it must be 0 or more")

    def of(self, evidence: Evidence) -> Floats:
        run, num_extra = evidence.run_again, evidence.num_extra
        pixels = known_range(run.rows.pixels)
        # (1, C, 1, 1): white and black are those of each channel after normalisation.
        step = self.eps * (pixels.white - pixels.black)
        found = []
        with torch.inference_mode(False):  # the caller may be in inference mode, which forbids gradients
            for images, _ in run.rows.batches(run.batch_size):
                moved = images - step * self.loss_gradient(run.network, images, num_extra=num_extra).sign()
                with torch.no_grad():
                    outputs = run.network(moved).double().cpu().numpy()
                found.append(confidence_scores(outputs / self.temperature, num_extra=num_extra))
        return np.concatenate(found)

    def loss_gradient(self, network: nn.Module, images: Tensor, *, num_extra: int) -> Tensor:
        """Returns the gradient of the cross-entropy of z / T with the predicted class in the images (B, C, H, W)."""
        with torch.enable_grad():
            moving = images.detach().requires_grad_()
            outputs = network(moving).float() / self.temperature
            predicted = outputs[:, : outputs.shape[1] - num_extra].argmax(1)
            # The sum, so that the gradient of an image does not depend on the size of its batch.
            loss = functional.cross_entropy(outputs, predicted, reduction="sum")
            return torch.autograd.grad(loss, moving)[0]
