"""Filters and geometric transforms of batches of images; beyond the border, the outermost pixels are repeated.

Images are (B, C, H, W) float32. Lengths are in pixels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional


def gaussian(images: Tensor, sigma: float, *, truncate: float = 4.0) -> Tensor:
    """Returns the images after a Gaussian filter that ends at `truncate` standard deviations."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return images
    taps = torch.arange(-radius, radius + 1, dtype=torch.float32, device=images.device)
    weights = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights = weights / weights.sum()
    return correlate(correlate(images, weights[:, None]), weights[None])


def correlate(images: Tensor, kernel: Tensor) -> Tensor:
    """Returns the correlation of every channel with a kernel (h, w) of odd sides."""
    (height, width), channels = kernel.shape, images.shape[1]
    padded = functional.pad(images, (width // 2, width // 2, height // 2, height // 2), mode="replicate")
    return functional.conv2d(padded, kernel.expand(channels, 1, height, width), groups=channels)


def disk(radius: float, sigma: float, *, device: torch.device) -> Tensor:
    """Returns a disk whose sum is 1, smoothed by a Gaussian of three taps: (2n + 1, 2n + 1)."""
    reach = math.floor(radius) + 1
    taps = torch.arange(-reach, reach + 1, device=device)
    inside = (taps[:, None] ** 2 + taps[None] ** 2 <= radius**2).float()
    side = math.exp(-0.5 / sigma**2)
    smooth = torch.tensor([side, 1.0, side], device=device) / (1 + 2 * side)
    padded = functional.pad((inside / inside.sum())[None, None], (1, 1, 1, 1))
    return functional.conv2d(padded, (smooth[:, None] * smooth)[None, None], padding=1)[0, 0]


def sample(images: Tensor, x: Tensor, y: Tensor, *, padding: str = "border") -> Tensor:
    """Returns the images at other places, bilinearly. x, y: (B, H, W), column and row of every pixel of the result."""
    height, width = images.shape[2:]
    grid = torch.stack((2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1), dim=-1)
    return functional.grid_sample(images, grid, padding_mode=padding, align_corners=True)


def places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns column and row of every pixel, each (1, H, W) float32."""
    height, width = images.shape[2:]
    rows = torch.arange(height, dtype=torch.float32, device=images.device)
    columns = torch.arange(width, dtype=torch.float32, device=images.device)
    return columns.view(1, 1, -1).expand(1, height, width), rows.view(1, -1, 1).expand(1, height, width)


def motion(images: Tensor, angles: Tensor, *, radius: int, sigma: float) -> Tensor:
    """Returns the images smeared to one side along a line, by half a Gaussian of 2 radius + 1 taps. angles: (B,) in radians."""
    x, y = places(images)
    cosines, sines = angles.cos().view(-1, 1, 1), angles.sin().view(-1, 1, 1)
    weights = [math.exp(-0.5 * (tap / sigma) ** 2) for tap in range(2 * radius + 1)]
    smeared = torch.zeros_like(images)
    for tap, weight in enumerate(weights):
        smeared += weight / sum(weights) * sample(images, x + tap * cosines, y + tap * sines)
    return smeared


def zoomed(images: Tensor, factor: float) -> Tensor:
    """Returns the centre of the images, enlarged by a factor of at least 1 to the same size."""
    x, y = places(images)
    height, width = images.shape[2:]
    left, top = (width - 1) / 2, (height - 1) / 2
    shape = (len(images), height, width)
    return sample(images, (left + (x - left) / factor).expand(shape), (top + (y - top) / factor).expand(shape))
