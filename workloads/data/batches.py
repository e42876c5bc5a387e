"""Batches of a split that lies on the device as uint8 or float32: rows are gathered, augmented and normalised there.

No function here loops over samples or synchronizes with the device. Dimensions: B batch, C channels, H height, W width. Features
have the axes (B, C, ...), with any or none after C; only images are augmented.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.interfaces import PixelRange
from pruneyard.workloads.ranks import Share
from pruneyard.workloads.seeding import stream

Sampler = Literal["shuffle", "weighted"]
"""Each row once in an epoch, in random order; or rows with replacement, every class equally often on average."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random flip, crop and cutout, sampled for each image; by default images are not changed.

    flip: images are mirrored left to right with probability one half.
    pad: images are padded by this many pixels on each side and cropped back to their size at a random position.
    cutout: a square of this side is blanked around a random pixel, clipped at the border (arXiv 1708.04552).
    Augmentation comes before normalisation, so padding and cutout are black, not the mean.
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
        """Returns augmented images of the same shape, type and device.

        images: (B, C, H, W) uint8 or float32; they are not modified. Raises `ValueError` if other inputs are to be changed.
        share: which rows of the whole batch these images are, by default all. Random numbers are sampled for the whole batch,
            so an image is augmented in the same way however the batch is distributed over ranks.
        """
        if self == UNCHANGED:
            return images
        if images.ndim != 4:
            shape = tuple(images.shape[1:])
            raise ValueError(f"augment changes images, but the data has features of shape {shape}; leave augment out")
        share = share or Share.whole(len(images))
        height, width = images.shape[2:]

        def sample(bound: int, *shape: int) -> Tensor:
            return share.of(_random_integers(bound, (*shape, share.total), generator, images.device), dim=-1)

        if self.flip:
            images = flip(images, sample(2))
        if self.pad:
            corners = sample(2 * self.pad + 1, 2)
            images = crop(pad(images, self.pad, self.pad_mode), corners, height=height, width=width)
        if self.cutout:
            rows, columns = sample(height), sample(width)
            images = cut_out(images, rows, columns, side=self.cutout)
        return images


UNCHANGED = Augmentation()


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors the images whose entry in `mirrored: (B,)` is 1; images whose entry is 0 stay unchanged."""
    # A gather from both versions instead of boolean indexing, whose result size depends on the data and would synchronize.
    both = torch.cat((images, images.flip(3)))
    return both.index_select(0, torch.arange(len(images), device=images.device) + mirrored * len(images))


def pad(images: Tensor, size: int, mode: Literal["zeros", "reflect"]) -> Tensor:
    """Pads (B, C, H, W) to (B, C, H + 2 size, W + 2 size); `reflect` does not repeat the border."""
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
    """Crops each image to height x width; corners: (2, B), row and column of the upper left pixel.

    This is one gather of whole pixel rows: every run of `width` pixels in the batch is a row of an overlapping view.
    """
    num, channels, full_height, full_width = images.shape
    flat = images.contiguous().view(-1)
    # Overlapping rows, one for each start position: nothing is copied until `index_select`.
    runs = flat.as_strided((flat.numel() - width + 1, width), (1, 1))
    planes_BC1 = torch.arange(num * channels, device=images.device).view(num, channels, 1) * full_height
    rows_B1H = (corners[0][:, None] + torch.arange(height, device=images.device))[:, None, :]
    starts_BCH = (planes_BC1 + rows_B1H) * full_width + corners[1][:, None, None]
    return runs.index_select(0, starts_BCH.view(-1)).view(num, channels, height, width)


def cut_out(images: Tensor, rows: Tensor, columns: Tensor, *, side: int) -> Tensor:
    """Blanks the square of `side` pixels around each centre in `rows, columns: (B,)`."""

    def outside(centres: Tensor, length: int) -> Tensor:
        # (B, length): distance of each line from the upper edge of the square, which may lie outside the image.
        offset = torch.arange(length, device=images.device) - (centres - side // 2)[:, None]
        return (offset < 0) | (offset >= side)

    kept = outside(rows, images.shape[2])[:, None, :, None] | outside(columns, images.shape[3])[:, None, None, :]
    return images * kept.to(images.dtype)


class DeviceSplit:
    """Inputs and labels of a split as tensors on a device; on the CPU they share the split's memory."""

    def __init__(
        self,
        split: Split,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        channels_last: bool = False,
        sampler: Sampler = "shuffle",
    ) -> None:
        """mean, std: per channel, of images in [0, 1], or of features; channels_last: the memory layout of batches of images.

        sampler: how the rows of an epoch are chosen; see `epoch_order` and `weighted_epoch_order`.
        """
        self.device = torch.device(device)
        self.images = _shared_tensor(split.images).to(self.device)
        self.labels = _shared_tensor(split.labels).to(self.device)
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._sampler = sampler
        self._latest_order: tuple[tuple[int, int], Tensor] | None = None
        self._white = 255 if split.pixels else None
        # In float64, and rounded to float32 once.
        scale = 1 / ((self._white or 1) * np.asarray(std, dtype=np.float64))
        self._scale = self._per_pixel(scale)
        self._shift = self._per_pixel(-np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one input: (C, H, W) of an image."""
        return tuple(self.images.shape[1:])

    @property
    def pixels(self) -> PixelRange | None:
        """The values of black and white after normalisation; None for features."""
        if self._white is None:
            return None
        # One value per channel: `_scale` and `_shift` repeat it for every pixel.
        black = self._shift[..., :1, :1]
        return PixelRange(black=black, white=black + self._white * self._scale[..., :1, :1])

    def batch(
        self,
        indices: Tensor,
        augmentation: Augmentation,
        generator: torch.Generator,
        share: Share | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns normalised inputs (B, C, ...) float32 and labels (B,) int64 of the rows `indices: (B,)` int64.

        share: which of these rows to return, by default all; they are augmented as in the whole batch.
        """
        share = share or Share.whole(len(indices))
        rows = _copy_async(share.of(indices), self.device)
        images = augmentation(self.images.index_select(0, rows), generator, share)
        return self.normalise(images), self.labels.index_select(0, rows)

    def select_step_rows(self, step: int, batch_size: int, share: Share, *, seed: int) -> Tensor:
        """Returns the row indices (B,) int64 of this share of a training step's batch."""
        size = min(batch_size, len(self))
        epoch, position = divmod(step, len(self) // size)
        # A function of the step alone, so a resumed run gets the same batches without replaying earlier ones.
        rows = self.epoch_order(seed, epoch)[position * size : (position + 1) * size]
        return _copy_async(share.of(rows), self.device)

    def epoch_order(self, seed: int, epoch: int) -> Tensor:
        """Returns the rows of one epoch in their order: (N,) int64 on the CPU, a function of seed and epoch alone."""
        # Every step of an epoch needs it, and so does a rule that looks ahead.
        if self._latest_order is None or self._latest_order[0] != (seed, epoch):
            weighted = self._sampler == "weighted"
            order = weighted_epoch_order(self.labels.cpu(), seed, epoch) if weighted else epoch_order(len(self), seed, epoch)
            self._latest_order = (seed, epoch), order
        return self._latest_order[1]

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields normalised inputs and labels of all rows in order, for evaluation; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield self.normalise(self.images[rows]), self.labels[rows]

    def normalise(self, images: Tensor) -> Tensor:
        """Returns (pixels / 255 - mean) / std, or (features - mean) / std, as float32; images: the inputs, not modified."""
        # `copy=True`, because the next line works in place and float32 images would otherwise be those of the split.
        converted = images.to(torch.float32, memory_format=self._memory_format, copy=True)
        return converted.mul_(self._scale).add_(self._shift)

    def _per_pixel(self, by_channel: npt.NDArray[np.float64]) -> Tensor:
        """Expands (C,) to (1, C, ...) in the memory layout of the batches, because broadcasting over 3 channels is slow."""
        tensor = torch.tensor(by_channel, dtype=torch.float32, device=self.device)
        tensor = tensor.view(1, -1, *[1] * (self.images.ndim - 2))
        repeated = tensor.expand(1, *self.images.shape[1:])
        return repeated.clone(memory_format=self._memory_format)


def epoch_order(num_rows: int, seed: int, epoch: int) -> Tensor:
    """Returns the order of the rows in one epoch: (num_rows,) int64 on the CPU, a function of seed and epoch alone."""
    return torch.randperm(num_rows, generator=stream(seed, "order", epoch))


def weighted_epoch_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Returns N rows drawn with replacement for labels (N,), every class that has rows equally often on average: (N,) int64.

    This is `torch.utils.data.WeightedRandomSampler` with the weight 1 / rows of the class, without its limit of 2^24 rows.
    """
    generator = stream(seed, "order", epoch)
    by_class = torch.argsort(labels, stable=True)
    _, sizes = torch.unique(labels, return_counts=True)
    drawn = torch.randint(len(sizes), (len(labels),), generator=generator)
    within = torch.rand(len(labels), generator=generator, dtype=torch.float64) * sizes[drawn]
    return by_class[(sizes.cumsum(0) - sizes)[drawn] + within.long()]


def _random_integers(bound: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Samples integers in [0, bound) on the generator's device: a CPU generator gives the same numbers for every device."""
    sampled = torch.randint(bound, shape, generator=generator, device=generator.device)
    return _copy_async(sampled, device)


def _copy_async(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns the tensor on a device; copies from the CPU to a GPU go through pinned memory, which does not block."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _shared_tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """Returns a tensor that shares the array's memory, which may be a read-only memory map; it must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(np.ascontiguousarray(array))


def device_splits(data: Dataset, device: torch.device) -> dict[str, DeviceSplit]:
    """Returns the splits that have rows, by name."""
    splits = {"train": data.train, "val": data.val, "calib": data.calib, "test": data.test}
    return {
        name: DeviceSplit(split, mean=data.mean, std=data.std, device=device) for name, split in splits.items() if len(split)
    }


def split_rows(order: Tensor, batch_size: int) -> list[Tensor]:
    """Returns rows (N,) in batches. A single last row joins the batch before it: batch norm needs two values per channel."""
    batches = list(order.split(batch_size))
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        *whole, before, single = batches
        return [*whole, torch.cat([before, single])]
    return batches
