"""Random masks on synthetic images during optimisation, so that the unmasked pixels must carry more information (MDT).

Reference: Masked Distillation Training of "Rethinking Data Distillation: Do Not Overlook Calibration" (arXiv:2307.12463).
Only the abstract of the paper was available. What is masked, where and how often is our interpretation, unverified.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.fields import renamed


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Random masks, sampled anew for every image in every step; the stored images are never masked.

    A masked pixel is 0 after normalisation, which is the mean colour, and gets no gradient in that step. With ratio 0 no random
    numbers are sampled.
    """

    ratio: float = 0.0  # expected share that is masked
    # what is masked as a whole; pixels: in all channels at once
    unit: Literal["pixels", "patches", "channels"] = field(default="pixels", metadata=renamed("site"))
    patch: int = 4  # side of a patch, in pixels
    rescaled: bool = False  # divide unmasked values by 1 - ratio

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}; it must lie in [0, 1), a share of the {self.unit}")
        if self.patch < 1:
            raise ValueError(f"patch is {self.patch}; it must be 1 or more pixels")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Returns masked images; images: (B, C, H, W), normalised."""
        if not self.ratio:
            return images
        kept = self._sample_kept(tuple(images.shape), generator).to(images.device, images.dtype)
        return images * (kept / (1 - self.ratio) if self.rescaled else kept)

    def _sample_kept(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Samples which values are not masked: 1 or 0, broadcastable to `shape`."""
        num, channels, height, width = shape
        if self.unit == "channels":
            return (torch.rand((num, channels, 1, 1), generator=generator) >= self.ratio).float()
        side = self.patch if self.unit == "patches" else 1
        # Patches at the lower and right border are cut if the side does not divide the image.
        grid = (num, 1, -(-height // side), -(-width // side))
        kept = (torch.rand(grid, generator=generator) >= self.ratio).float()
        return functional.interpolate(kept, scale_factor=side, mode="nearest")[..., :height, :width]
