"""Blurs: defocus, glass, motion, zoom and Gaussian blur. Lengths are in pixels, as given for images of 32x32."""

import math

import torch
from torch import Tensor

from pruneyard.workloads.data.corruptions import filters
from pruneyard.workloads.data.corruptions.row_noise import RowNoise


def length_scale(images: Tensor) -> float:
    """Returns the factor of all lengths: 1 for images of up to 32 pixels, in proportion to the shorter side above."""
    return max(1.0, min(images.shape[2:]) / 32)


def gaussian_blur(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Applies a Gaussian filter."""
    return filters.gaussian(images, length_scale(images) * (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1])


def defocus_blur(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Applies a smoothed disk."""
    radius, sigma = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    return filters.correlate(images, filters.disk(length_scale(images) * radius, sigma, device=images.device))


def glass_blur(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Moves pixels by up to one pixel, once or twice, between two Gaussian filters.

    The published code swaps pixels one after another; here each pixel takes the value of a random neighbour, all at once.
    """
    sigma, times = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    scale = length_scale(images)
    images = filters.gaussian(images, scale * sigma)
    (height, width), reach = images.shape[2:], round(scale)
    x, y = (place.to(torch.int64) for place in filters.places(images))
    for time in range(times):
        # Offsets are -reach ... reach - 1, as published.
        moves = noise.uniform(f"glass_blur/{time}", 2, height, width).mul(2 * reach).to(torch.int64) - reach
        columns, rows = (x + moves[:, 0]).clamp(0, width - 1), (y + moves[:, 1]).clamp(0, height - 1)
        index = (rows * width + columns).flatten(1)[:, None].expand(-1, images.shape[1], -1)
        images = images.flatten(2).gather(2, index).view_as(images)
    return filters.gaussian(images, scale * sigma)


def motion_blur(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Smears along a line at up to 45 degrees to the rows."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    scale = length_scale(images)
    angles = (noise.uniform("motion_blur") - 0.5) * (math.pi / 2)
    return filters.motion(images, angles, radius=round(scale * radius), sigma=scale * sigma)


def zoom_blur(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Averages the image and enlargements of its centre, in steps of one percent."""
    factors = [1 + 0.01 * step for step in range((7, 12, 16, 21, 26)[severity - 1])]
    total = images.clone()
    for factor in factors:
        total += filters.zoomed(images, factor)
    return total / (len(factors) + 1)
