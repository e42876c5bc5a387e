"""Random crops of images, resized to full size; they are described by boxes that can be stored instead of pixels."""

import math

import torch
from torch import Tensor
from torch.nn import functional

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box (top, left, height, width) of the whole image, as shares of the sides."""


def random_boxes(num: int, *, smallest: float, stretch: float, generator: torch.Generator) -> Tensor:
    """Samples boxes (num, 4) float32 on the CPU, with areas in [smallest, 1] of the image at any position.

    The ratio of the sides lies in [1/stretch, stretch].
    """
    area, ratio, down, right = torch.rand((4, num), generator=generator)
    area = smallest + (1 - smallest) * area
    # The root of a log-uniform ratio, so that a ratio and its inverse are equally likely.
    root = torch.exp((2 * ratio - 1) * math.log(stretch) / 2)
    # A long box of large area would exceed the image; it is cut, so its area becomes smaller.
    height, width = ((area.sqrt() * side).clamp(max=1) for side in (1 / root, root))
    return torch.stack([down * (1 - height), right * (1 - width), height, width], dim=1)


def crop_and_resize(images: Tensor, boxes: Tensor) -> Tensor:
    """Crops images (N, C, H, W) to boxes (N, 4) and resizes them bilinearly to H x W; the box `WHOLE` returns the image."""
    top, left, height, width = boxes.to(images.device, images.dtype).unbind(1)
    zero = torch.zeros_like(top)
    # affine_grid has coordinates in [-1, 1], where the centre of the box is 2 * (left + width / 2) - 1.
    across = torch.stack([width, zero, 2 * left + width - 1], dim=1)
    down = torch.stack([zero, height, 2 * top + height - 1], dim=1)
    grid = functional.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    # Samples at the border of the image reach half a pixel beyond it, which must not darken them.
    return functional.grid_sample(images, grid, align_corners=False, padding_mode="border")
