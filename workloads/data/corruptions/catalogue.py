"""All corruptions by name, and how a batch of images is corrupted.

Reference: Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations
(arXiv:1903.12261). The parameters of the fifteen are those of the authors' script for CIFAR-10-C, read in
github.com/hendrycks/robustness at commit ca360085. The filters are our own, so images differ from the published ones: glass
blur moves all pixels at once, frost is generated, borders are repeated, and JPEG enlarges colour by repetition. Those of
`rotation`, steps of 15 degrees, are our own and unverified.

Lengths of blurs, in pixels, are those for 32x32 on smaller images too; on larger ones they grow in proportion. Those of the
elastic transform are in proportion to the side, as published, and the clouds of fog and frost span the image.

With these parameters the mean distance to the clean images grows with the severity, but for glass blur, snow, frost and the
elastic transform, whose parameters do not all grow, and for rotation, which saturates.

Random numbers depend on the seed and the row only: an image is corrupted alike in every batch, and with the same random numbers
at every severity.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from pruneyard.workloads.data.corruptions.blurs import (
    defocus_blur,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from pruneyard.workloads.data.corruptions.digital import (
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
    rotation,
)
from pruneyard.workloads.data.corruptions.noises import gaussian_noise, impulse_noise, shot_noise
from pruneyard.workloads.data.corruptions.row_noise import RowNoise
from pruneyard.workloads.data.corruptions.weather import brightness, fog, frost, snow
from pruneyard.workloads.user_code.nearest import nearest

Corruption = Callable[[Tensor, RowNoise, int], Tensor]
"""Maps images (B, C, H, W) in [0, 1], random numbers and a severity, 1 ... 5, to images that may lie outside [0, 1]."""

STANDARD = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The fifteen corruptions of CIFAR-10-C, in their order."""

CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        corruption.__name__: corruption
        for corruption in (
            gaussian_noise,
            shot_noise,
            impulse_noise,
            defocus_blur,
            glass_blur,
            motion_blur,
            zoom_blur,
            snow,
            frost,
            fog,
            brightness,
            contrast,
            elastic_transform,
            pixelate,
            jpeg_compression,
            gaussian_blur,
            rotation,
        )
    }
)

SEVERITIES = (1, 2, 3, 4, 5)


def check_corruption(name: str, *, field: str) -> None:
    """Raises `ValueError` for an unknown corruption."""
    if name not in CORRUPTIONS:
        raise ValueError(f"{field} is {name!r}; it must be one of {', '.join(CORRUPTIONS)}{nearest(name, CORRUPTIONS)}")


def corrupt(images: Tensor, name: str, severity: int, *, rows: Tensor, seed: int) -> Tensor:
    """Returns corrupted images of the same shape, type and device.

    images: (B, C, H, W), uint8 or float32 in which black is 0 and white is 255; values outside are clipped. uint8 is rounded.
    rows: (B,) int64, the rows' numbers in their data set. severity: 0 ... 5; 0 returns the images unchanged.
    """
    if severity == 0:
        return images
    noise = RowNoise(seed=seed, rows=rows.to(images.device))
    pixels = (images.to(torch.float32) / 255).clamp(0, 1)
    corrupted = 255 * CORRUPTIONS[name](pixels, noise, severity).clamp(0, 1)
    return corrupted.round().to(torch.uint8) if images.dtype == torch.uint8 else corrupted
