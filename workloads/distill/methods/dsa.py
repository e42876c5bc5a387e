"""Matches gradients as DC does, with one random transform for real and synthetic images of a class (DSA).

Reference: Zhao and Bilen 2021, Dataset Condensation with Differentiable Siamese Augmentation (arXiv:2102.08259)
"""

from dataclasses import dataclass, field
from typing import Literal

from pruneyard.workloads.distill.methods.dc import DC

__all__ = ["DSA"]


@dataclass(frozen=True, kw_only=True)
class DSA(DC):
    """DC with augmentation that starts from real images; without transforms it equals DC that starts from real images."""

    init: Literal["real", "noise"] = "real"
    augment: str = field(default="color_crop_cutout_flip_scale_rotate")
