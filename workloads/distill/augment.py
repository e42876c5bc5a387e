"""Differentiable augmentation of batches, with parameters drawn once and given to as many batches as shall share them.

Reference: Zhao and Bilen 2021, Dataset Condensation with Differentiable Siamese Augmentation (DSA, arXiv:2102.08259). Images
are normalised; what is shifted in or cut out is zero, which is the mean colour.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP_SHARE, CUTOUT_SHARE = 0.125, 0.5  # of the image's side
SCALE, DEGREES = 1.2, 15.0

Draws = Tensor
"""Uniform numbers in [0, 1), (P, 3): what a transform needs of an image; with P = 1 all images share them."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Transforms in their order, each with its parameters."""

    steps: tuple[tuple[str, Draws], ...]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) of any number of images, where parameters are shared; else of the number that was drawn for."""
        for name, draws in self.steps:
            images = TRANSFORMS[name](images, draws.to(images.device, images.dtype))
        return images


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Names of transforms joined by underscores, as in the literature; empty: images stay as they are.

    always: those applied at every call; of the others one is drawn. DSA has none that is always applied; IDC has flip, color
    and cutout.
    """

    names: tuple[str, ...] = ()
    always: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, *, always: tuple[str, ...] = ()) -> "Strategy":
        """Raises `ValueError` for an unknown name."""
        names = tuple(text.split("_")) if text else ()
        unknown = [name for name in names if name not in TRANSFORMS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(TRANSFORMS)}")
        return cls(names=names, always=tuple(name for name in always if name in names))

    def draw(self, generator: torch.Generator, *, num: int = 1) -> Drawn:
        """num: images with parameters of their own; 1: all share them."""
        optional = [name for name in self.names if name not in self.always]
        chosen = list(self.always)
        if optional:
            chosen.append(optional[int(torch.randint(len(optional), (), generator=generator))])
        drawn = [(name, torch.rand((num, 3), generator=generator)) for name in chosen]
        return Drawn(steps=tuple(drawn))


def flip(images: Tensor, draws: Draws) -> Tensor:
    """Left to right, with probability one half."""
    return torch.where(draws[:, 0].view(-1, 1, 1, 1) < 0.5, images.flip(3), images)


def color(images: Tensor, draws: Draws) -> Tensor:
    """Brightness, saturation and contrast, in this order."""
    brightness, saturation, contrast = (draws[:, i].view(-1, 1, 1, 1) for i in range(3))
    images = images + (brightness - 0.5) * BRIGHTNESS
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (saturation * SATURATION) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + CONTRAST) + mean


def crop(images: Tensor, draws: Draws) -> Tensor:
    """Shifted by up to an eighth of each side, whole pixels."""
    height, width = images.shape[2:]
    down, right = (_whole(draws[:, i], round(side * CROP_SHARE)) for i, side in enumerate((height, width)))
    rows = torch.arange(height, device=images.device) - down[:, None]
    columns = torch.arange(width, device=images.device) - right[:, None]
    inside = _within(rows, height)[:, None, :, None] & _within(columns, width)[:, None, None, :]
    num = len(images)
    image = torch.arange(num, device=images.device)[:, None, None]
    rows, columns = rows.clamp(0, height - 1).expand(num, -1), columns.clamp(0, width - 1).expand(num, -1)
    moved = images.movedim(1, -1)[image, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    return moved.contiguous() * inside  # convolutions on a CPU are slower where channels come last


def cutout(images: Tensor, draws: Draws) -> Tensor:
    """A square of half the side around a random pixel is zero, cut off at the border."""
    masks = []
    for i, side in enumerate(images.shape[2:]):
        half = round(side * CUTOUT_SHARE) // 2
        centre = (draws[:, i] * side).floor()
        offset = torch.arange(side, device=images.device) - centre[:, None]
        masks.append((offset >= -half) & (offset < half))
    cut = masks[0][:, None, :, None] & masks[1][:, None, None, :]
    return images * ~cut


def scale(images: Tensor, draws: Draws) -> Tensor:
    """Each side by a factor in [1/1.2, 1.2]."""
    sizes = draws[:, :2] * (SCALE - 1 / SCALE) + 1 / SCALE
    zero = torch.zeros_like(sizes[:, 0])
    return _sampled(images, [[sizes[:, 0], zero], [zero, sizes[:, 1]]])


def rotate(images: Tensor, draws: Draws) -> Tensor:
    """By up to 15 degrees either way."""
    angle = (draws[:, 0] - 0.5) * 2 * DEGREES / 180 * math.pi
    return _sampled(images, [[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])


def _sampled(images: Tensor, matrix: list[list[Tensor]]) -> Tensor:
    """At the places that an affine map (2, 2) per image sends each pixel to; bilinear, zero outside."""
    rows = [torch.stack([*row, torch.zeros_like(row[0])], dim=1) for row in matrix]
    theta = torch.stack(rows, dim=1).expand(len(images), -1, -1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _whole(draws: Tensor, most: int) -> Tensor:
    """Whole numbers in [-most, most]."""
    return (draws * (2 * most + 1)).floor().long() - most


def _within(places: Tensor, length: int) -> Tensor:
    return (places >= 0) & (places < length)


TRANSFORMS: Mapping[str, Callable[[Tensor, Draws], Tensor]] = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}
