"""Batches of a split that lies on the device, as uint8 or float32 as it came: picked, augmented and normalised there.

Nothing here loops over samples or waits for the device. Dimensions: B batch, C channels, H height, W width.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.interfaces import PixelRange
from pruneyard.workloads.ranks import Share
from pruneyard.workloads.seeding import stream


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random mirroring, shift and cutout, each drawn per image; neutral by default.

    flip: half of the images are mirrored left to right.
    pad: images are padded by so many pixels on each side and cropped back to their size at a random place.
    cutout: a square of this side is blanked around a random pixel, cut off at the border (arXiv 1708.04552).
    Pixels are changed before normalisation, so padding and cutout are black, not the mean.
    """

    pad: int = 0
    pad_mode: Literal["zeros", "reflect"] = "zeros"
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name, size in (("pad", self.pad), ("cutout", self.cutout)):
            if size < 0:
                raise ValueError(f"{name} is {size}; it must be 0 or more pixels")

    def __call__(self, images: Tensor, generator: torch.Generator, share: Share | None = None) -> Tensor:
        """images: (B, C, H, W) uint8 or float32, never written to; the result has the same shape, type and device.

        share: the rows of a batch that the images are, all of them if not given; draws are made for the whole batch.
        """
        among = share or Share.whole(len(images))
        height, width = images.shape[2:]

        def draw(bound: int, *shape: int) -> Tensor:
            return among.of(_draw(bound, (*shape, among.total), generator, images.device), dim=-1)

        if self.flip:
            images = flip(images, draw(2))
        if self.pad:
            corners = draw(2 * self.pad + 1, 2)
            images = crop(pad(images, self.pad, self.pad_mode), corners, height=height, width=width)
        if self.cutout:
            rows, columns = draw(height), draw(width)
            images = cut_out(images, rows, columns, side=self.cutout)
        return images


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors the images whose entry in `mirrored: (B,)` is 1, and not those where it is 0."""
    both = torch.cat((images, images.flip(3)))
    return both.index_select(0, torch.arange(len(images), device=images.device) + mirrored * len(images))


def pad(images: Tensor, size: int, mode: Literal["zeros", "reflect"]) -> Tensor:
    """(B, C, H, W) -> (B, C, H + 2 size, W + 2 size); `reflect` does not repeat the border."""
    if mode == "zeros":
        return torch.nn.functional.pad(images, (size, size, size, size))
    shortest = min(images.shape[2:])
    if size >= shortest:
        raise ValueError(f"pad is {size}; it must be below the image's side of {shortest} to be reflected")
    for dim in (2, 3):
        length = images.shape[dim]
        before = images.narrow(dim, 1, size).flip(dim)
        after = images.narrow(dim, length - 1 - size, size).flip(dim)
        images = torch.cat((before, images, after), dim)
    return images


def crop(images: Tensor, corners: Tensor, *, height: int, width: int) -> Tensor:
    """Cuts height x width out of each image; corners: (2, B), row and column of its upper left pixel.

    One gather of whole pixel rows: every run of `width` pixels in the batch is a row of an overlapping view.
    """
    num, channels, full_height, full_width = images.shape
    flat = images.contiguous().view(-1)
    runs = flat.as_strided((flat.numel() - width + 1, width), (1, 1))
    planes_BC1 = torch.arange(num * channels, device=images.device).view(num, channels, 1) * full_height
    rows_B1H = (corners[0][:, None] + torch.arange(height, device=images.device))[:, None, :]
    starts_BCH = (planes_BC1 + rows_B1H) * full_width + corners[1][:, None, None]
    return runs.index_select(0, starts_BCH.view(-1)).view(num, channels, height, width)


def cut_out(images: Tensor, rows: Tensor, columns: Tensor, *, side: int) -> Tensor:
    """Blanks the square of `side` pixels around each centre in `rows, columns: (B,)`."""

    def kept(centres: Tensor, length: int) -> Tensor:
        offset = torch.arange(length, device=images.device) - (centres - side // 2)[:, None]
        return (offset < 0) | (offset >= side)

    keep = kept(rows, images.shape[2])[:, None, :, None] | kept(columns, images.shape[3])[:, None, None, :]
    return images * keep.to(images.dtype)


class DeviceSplit:
    """A split's images and its labels, resident on a device; on the CPU in the split's own memory."""

    def __init__(
        self,
        split: Split,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> None:
        """mean, std: per channel, of images in [0, 1]; channels_last: memory layout of the batches made."""
        self.device = torch.device(device)
        self.images = _shared_tensor(split.images).to(self.device)
        self.labels = _shared_tensor(split.labels).to(self.device)
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        scale = 1 / (255 * np.asarray(std, dtype=np.float64))
        self._scale = self._per_pixel(scale)
        self._shift = self._per_pixel(-np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def pixels(self) -> PixelRange:
        """What black and white are in batches."""
        black = self._shift[..., :1, :1]
        return PixelRange(black=black, white=black + 255 * self._scale[..., :1, :1])

    def batch(
        self,
        indices: Tensor,
        augmentation: Augmentation,
        generator: torch.Generator,
        share: Share | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Normalised images (B, C, H, W) float32 and labels (B,) int64 of the rows `indices: (B,)` int64.

        share: which of these rows are wanted, all if not given; they are augmented as in the whole batch.
        """
        among = share or Share.whole(len(indices))
        rows = _without_waiting(among.of(indices), self.device)
        images = augmentation(self.images.index_select(0, rows), generator, among)
        return self.normalise(images), self.labels.index_select(0, rows)

    def of_step(self, step: int, batch_size: int, share: Share, *, seed: int) -> Tensor:
        """Which rows are this share of a step's batch, in a training on this split: (B,) int64."""
        size = min(batch_size, len(self))
        epoch, position = divmod(step, len(self) // size)
        rows = _kept_order(len(self), seed, epoch)[position * size : (position + 1) * size]
        return _without_waiting(share.of(rows), self.device)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order, for evaluation; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield self.normalise(self.images[rows]), self.labels[rows]

    def normalise(self, images: Tensor) -> Tensor:
        """(images / 255 - mean) / std as float32; images: (B, C, H, W) uint8 or float32, never written to."""
        converted = images.to(torch.float32, memory_format=self._memory_format, copy=True)
        return converted.mul_(self._scale).add_(self._shift)

    def _per_pixel(self, by_channel: npt.NDArray[np.float64]) -> Tensor:
        """(C,) -> (1, C, H, W) in the layout of the batches, where broadcasting 3 channels is slow."""
        tensor = torch.tensor(by_channel, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)
        repeated = tensor.expand(1, *self.images.shape[1:])
        return repeated.clone(memory_format=self._memory_format)


def epoch_order(num_rows: int, seed: int, epoch: int) -> Tensor:
    """The order of the rows in one epoch: (num_rows,) int64 on the CPU, of seed and epoch alone."""
    return torch.randperm(num_rows, generator=stream(seed, "order", epoch))


_kept_order = lru_cache(maxsize=1)(epoch_order)  # of the epoch at hand: every step of it may ask


def _draw(bound: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Integers in [0, bound), drawn where the generator lives: a CPU generator serves every device alike."""
    drawn = torch.randint(bound, shape, generator=generator, device=generator.device)
    return _without_waiting(drawn, device)


def _without_waiting(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; from the CPU through pinned memory, as a copy from pageable memory may wait."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _shared_tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """A tensor over the array's memory, which may be read-only (a memory map): it is never written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(np.ascontiguousarray(array))
