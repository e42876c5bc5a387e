"""DC with one random transform for the real and the synthetic images of a class (DSA).

Reference: Zhao and Bilen 2021, Dataset Condensation with Differentiable Siamese Augmentation (arXiv:2102.08259)
"""

from dataclasses import dataclass, field
from typing import Literal

from pruneyard.workloads.distill.methods.dc import DC

__all__ = ["DSA"]


@dataclass(frozen=True, kw_only=True)
class DSA(DC):
    """Starts from real images; without transforms it is DC from there."""

    init: Literal["real", "noise"] = "real"
    augment: str = field(default="color_crop_cutout_flip_scale_rotate")
