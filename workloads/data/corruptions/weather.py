"""Weather: snow, frost, fog and brightness."""

import math

import torch
from torch import Tensor

from pruneyard.workloads.data.corruptions import filters
from pruneyard.workloads.data.corruptions.blurs import length_scale
from pruneyard.workloads.data.corruptions.row_noise import RowNoise

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601
ICE = (0.85, 0.95, 1.0)  # the colour of the generated frost


def snow(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Whitens the image and adds flakes that fall along a line."""
    mean, std, zoom, threshold, radius, sigma, share = (
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    scale = length_scale(images)
    layer = filters.zoomed(mean + std * noise.normal("snow/flakes", 1, *images.shape[2:]), zoom)
    layer = torch.where(layer < threshold, 0.0, layer).clamp(0, 1)
    angles = -math.pi * (0.75 - 0.5 * noise.uniform("snow/angle"))  # -135 ... -45 degrees
    layer = filters.motion(layer, angles, radius=round(scale * radius), sigma=scale * sigma)
    white = share * images + (1 - share) * torch.maximum(images, 1.5 * luminance(images) + 0.5)
    return white + layer + layer.flip(2, 3)


def frost(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Adds a layer of ice. The published code crops photographs, which are not available: here ridges of random heights."""
    kept, added = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    ridges = 1 - (2 * plasma(noise, "frost", images, decay=1.5) - 1).abs()
    colour = torch.tensor(ICE, device=images.device).view(1, 3, 1, 1) if images.shape[1] == 3 else 1.0
    return kept * images + added * ridges * colour


def fog(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Adds a cloud and scales the image back to its largest value."""
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    largest = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + amount * plasma(noise, "fog", images, decay=decay)) * largest / (largest + amount)


def brightness(images: Tensor, noise: RowNoise, severity: int) -> Tensor:
    """Raises the value of the HSV colour, at the same hue and saturation."""
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = images.amax(dim=1, keepdim=True)
    raised = (value + added).clamp(max=1)
    # A black pixel has no hue: it becomes grey.
    return torch.where(value > 0, images * raised / value.clamp(min=1e-8), raised)


def luminance(images: Tensor) -> Tensor:
    """Returns grey images (B, 1, H, W): by luminance of red, green and blue, or the mean of other channels."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    return (images * torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def plasma(noise: RowNoise, name: str, images: Tensor, *, decay: float) -> Tensor:
    """Returns random heights in [0, 1], (B, 1, H, W), by midpoint displacement on a torus (diamond-square).

    decay: the roughness falls by its square from one scale to the next. The map has a power of two of pixels, cropped.
    """
    height, width = images.shape[2:]
    step = 1 << (max(height, width, 2) - 1).bit_length()
    heights = torch.zeros(len(images), step, step, device=images.device)
    amplitude = 1.0
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        draws = amplitude * (2 * noise.uniform(f"{name}/{step}", 3, *corners.shape[1:]) - 1)
        below = corners.roll(-1, 1)
        centres = (corners + below + (corners + below).roll(-1, 2)) / 4 + draws[:, 0]
        heights[:, half::step, half::step] = centres
        heights[:, ::step, half::step] = (centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)) / 4 + draws[:, 1]
        heights[:, half::step, ::step] = (centres + centres.roll(1, 2) + corners + below) / 4 + draws[:, 2]
        step, amplitude = half, amplitude / decay**2
    low, high = heights.amin(dim=(1, 2), keepdim=True), heights.amax(dim=(1, 2), keepdim=True)
    return ((heights - low) / (high - low).clamp(min=1e-12))[:, None, :height, :width]
