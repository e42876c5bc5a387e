"""Cross-entropy of images with a box of another image, against both labels in the shares of the area (CutMix).

Reference: Yun et al. 2019, CutMix: Regularization Strategy to Train Strong Classifiers (arXiv:1905.04899)

A box of share 1 - lam of the area, lam from Beta(alpha, alpha) and drawn once a step, around a pixel drawn uniformly, is clipped
at the border; then lam becomes the share of the area that is left, and the loss is lam CE(y_i) + (1 - lam) CE(y_j). Images
are mixed after augmentation, all in the same box. With alpha 0 it is `cross_entropy`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import InputKind
from pruneyard.workloads.losses.mixing import MixingObjective
from pruneyard.workloads.plugins import Settings

__all__ = ["CutMix"]


@dataclass(frozen=True, kw_only=True)
class CutMix(MixingObjective):
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"alpha": 0.0},)
    takes: ClassVar[InputKind] = "images"
    alpha: float = 1.0

    def mix(
        self, images: Tensor, partners: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Returns images with the partner's pixels inside the box, and the share of the area outside."""
        height, width = images.shape[2:]
        rows, columns = (sample_span(length, (1 - share) ** 0.5, generator) for length in (height, width))
        pasted = images.clone()
        pasted[:, :, rows, columns] = partners[:, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return pasted, 1 - area / (height * width)


def sample_span(length: int, share: float, generator: torch.Generator) -> slice:
    """Returns about that share of `length` pixels around a random one, clipped at both ends."""
    half = int(length * share) // 2
    centre = int(torch.randint(length, (), generator=generator))
    return slice(max(centre - half, 0), min(centre + half, length))
