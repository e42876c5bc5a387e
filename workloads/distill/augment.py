"""Differentiable augmentation of batches. Parameters are sampled once and can be applied to several batches.

Reference: Zhao and Bilen 2021, Dataset Condensation with Differentiable Siamese Augmentation (DSA, arXiv:2102.08259). Images
are normalised; pixels that are shifted in or cut out are zero, which is the mean colour.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.user_code.nearest import nearest

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP_SHARE, CUTOUT_SHARE = 0.125, 0.5  # of the image's side
SCALE, DEGREES = 1.2, 15.0

Uniforms = Tensor
"""Uniform random numbers in [0, 1), (P, 3): the parameters of a transform, three per image; with P = 1 all images share them."""


@dataclass(frozen=True, kw_only=True)
class SampledTransforms:
    """A sequence of transforms, each with its sampled parameters."""

    steps: tuple[tuple[str, Uniforms], ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Transforms images (B, C, H, W). B is arbitrary if images share parameters, otherwise `num` of `Strategy.sample`."""
        for name, uniforms in self.steps:
            images = TRANSFORMS[name](images, uniforms.to(images.device, images.dtype))
        return images


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A set of transforms, written as names joined by underscores as in the literature; without names, images are not changed.

    always: transforms that are applied to every batch, in addition to a sampled one of the others: first these in their order,
        then the sampled one, and cutout last. DSA has none; IDC has flip, color and cutout.
    """

    names: tuple[str, ...] = ()
    always: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, *, always: tuple[str, ...] = ()) -> "Strategy":
        """Parses the names of transforms. Raises `ValueError` for an unknown name."""
        names = tuple(text.split("_")) if text else ()
        unknown = [name for name in names if name not in TRANSFORMS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(TRANSFORMS)}{nearest(unknown[0], TRANSFORMS)}")
        return cls(names=names, always=tuple(name for name in always if name in names))

    def sample(self, generator: torch.Generator, *, num: int = 1) -> SampledTransforms:
        """Samples transforms with parameters for `num` images; with 1, all images share the parameters."""
        optional = [name for name in self.names if name not in self.always]
        chosen = [name for name in self.always if name != "cutout"]
        if optional:
            chosen.append(optional[int(torch.randint(len(optional), (), generator=generator))])
        if "cutout" in self.always:
            chosen.append("cutout")
        # Three numbers for every transform, used or not: the generator advances equally whichever was chosen.
        steps = [(name, torch.rand((num, 3), generator=generator)) for name in chosen]
        return SampledTransforms(steps=tuple(steps))


def flip(images: Tensor, uniforms: Uniforms) -> Tensor:
    """Mirrors images left to right with probability one half."""
    return torch.where(uniforms[:, 0].view(-1, 1, 1, 1) < 0.5, images.flip(3), images)


def color(images: Tensor, uniforms: Uniforms) -> Tensor:
    """Changes brightness, saturation and contrast, in this order."""
    # Factors: saturation in [0, 2), contrast in [0.5, 1.5); brightness is an offset in [-0.5, 0.5).
    brightness, saturation, contrast = (uniforms[:, i].view(-1, 1, 1, 1) for i in range(3))
    images = images + (brightness - 0.5) * BRIGHTNESS
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (saturation * SATURATION) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + CONTRAST) + mean


def crop(images: Tensor, uniforms: Uniforms) -> Tensor:
    """Shifts images by a whole number of pixels, up to an eighth of each side."""
    height, width = images.shape[2:]
    down, right = (_whole_numbers(uniforms[:, i], _pixels(side, CROP_SHARE)) for i, side in enumerate((height, width)))
    # Gathered by index, since images may differ in their shifts. Positions outside are clamped for the look-up
    # and set to zero at the end.
    rows = torch.arange(height, device=images.device) - down[:, None]
    columns = torch.arange(width, device=images.device) - right[:, None]
    inside = _within(rows, height)[:, None, :, None] & _within(columns, width)[:, None, None, :]
    num = len(images)
    image = torch.arange(num, device=images.device)[:, None, None]
    rows, columns = rows.clamp(0, height - 1).expand(num, -1), columns.clamp(0, width - 1).expand(num, -1)
    # Channels go last for the look-up: (B, H, W, C) indexed by image, row and column.
    moved = images.movedim(1, -1)[image, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    return moved.contiguous() * inside  # contiguous, as convolutions on a CPU are slower on channels-last tensors


def cutout(images: Tensor, uniforms: Uniforms) -> Tensor:
    """Sets a square of half the image's side to zero; the square is clipped at the border.

    Its centre is a random pixel or, if it is an even number of pixels wide, a random place between pixels, borders included.
    """
    masks = []
    for i, side in enumerate(images.shape[2:]):
        size = _pixels(side, CUTOUT_SHARE)
        num_places = side + 1 - size % 2
        first = (uniforms[:, i] * num_places).floor() - size // 2
        offset = torch.arange(side, device=images.device) - first[:, None]
        masks.append((offset >= 0) & (offset < size))
    cut = masks[0][:, None, :, None] & masks[1][:, None, None, :]
    return images * ~cut


def scale(images: Tensor, uniforms: Uniforms) -> Tensor:
    """Scales each side by a factor in [1/1.2, 1.2]."""
    # The matrix maps output to input positions, so the image grows by 1 / size, which lies in the same interval.
    sizes = uniforms[:, :2] * (SCALE - 1 / SCALE) + 1 / SCALE
    zero = torch.zeros_like(sizes[:, 0])
    return _apply_affine(images, [[sizes[:, 0], zero], [zero, sizes[:, 1]]])


def rotate(images: Tensor, uniforms: Uniforms) -> Tensor:
    """Rotates images by up to 15 degrees in either direction."""
    angle = (uniforms[:, 0] - 0.5) * 2 * DEGREES / 180 * math.pi
    return _apply_affine(images, [[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])


def _apply_affine(images: Tensor, matrix: list[list[Tensor]]) -> Tensor:
    """Samples images at the positions that a matrix (2, 2) per image maps each pixel to; bilinear, zero outside."""
    # The third column of theta is the shift; affine_grid names x (columns) before y (rows).
    rows = [torch.stack([*row, torch.zeros_like(row[0])], dim=1) for row in matrix]
    theta = torch.stack(rows, dim=1).expand(len(images), -1, -1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _pixels(side: int, share: float) -> int:
    """Returns a share of a side in pixels; halves are rounded up, as in the released code."""
    return int(side * share + 0.5)


def _whole_numbers(uniforms: Tensor, most: int) -> Tensor:
    """Returns whole numbers in [-most, most]."""
    return (uniforms * (2 * most + 1)).floor().long() - most


def _within(positions: Tensor, length: int) -> Tensor:
    return (positions >= 0) & (positions < length)


TRANSFORMS: Mapping[str, Callable[[Tensor, Uniforms], Tensor]] = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}


def check_transforms(field: str, text: str) -> None:
    """Raises `ValueError`, which begins with the field's name, unless the text names transforms."""
    try:
        Strategy.of(text)
    except ValueError as error:
        raise ValueError(f"{field} is {text!r}; {error}") from error
