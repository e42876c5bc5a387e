"""Random masks on synthetic images while they are optimised, so that the pixels that are left must carry more (MDT).

Reference: Masked Distillation Training of "Rethinking Data Distillation: Do Not Overlook Calibration" (arXiv:2307.12463).
Only the abstract of the paper was at hand. What is masked, where and how often is our reading, unverified.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Every image of every step has a mask of its own; the stored images are never masked. Ratio 0 draws nothing.

    A masked pixel is 0 after normalisation, the mean colour, and gets no gradient in that step.
    """

    ratio: float = 0.0  # share that is masked in the mean
    site: Literal["pixels", "patches", "channels"] = (
        "pixels"  # what is masked as a whole; pixels: in all channels
    )
    patch: int = 4  # side of a patch, in pixels
    rescaled: bool = False  # what is left is divided by 1 - ratio

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}; it must lie in [0, 1), a share of what `site` names")
        if self.patch < 1:
            raise ValueError(f"patch is {self.patch}; it must be 1 or more pixels")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """images: (B, C, H, W), normalised."""
        if not self.ratio:
            return images
        kept = self._kept(tuple(images.shape), generator).to(images.device, images.dtype)
        return images * (kept / (1 - self.ratio) if self.rescaled else kept)

    def _kept(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        num, channels, height, width = shape
        if self.site == "channels":
            return (torch.rand((num, channels, 1, 1), generator=generator) >= self.ratio).float()
        side = self.patch if self.site == "patches" else 1
        grid = (num, 1, -(-height // side), -(-width // side))
        kept = (torch.rand(grid, generator=generator) >= self.ratio).float()
        return functional.interpolate(kept, scale_factor=side, mode="nearest")[..., :height, :width]
