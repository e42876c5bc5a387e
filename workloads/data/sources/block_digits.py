"""Grey images above or below a block that is the same in all images: the place of the signal is known.

Each image becomes twice as high. One half, chosen at random for each row, is the image; the other is a square with its diagonals,
which says nothing about the label. A good attribution names places of the half with the image; the probe `diffroar` measures how
many do. The pattern of the empty half is our own.

Reference: Shah, Jain and Netrapalli 2021, Do Input Gradients Highlight Discriminative Features? (arXiv:2102.12781), BlockMNIST
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from pruneyard.workloads import plugins
from pruneyard.workloads.data.dataset import Dataset, Source, Split, WrappingSource
from pruneyard.workloads.data.input_statistics import input_statistics
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.plugins import Plugin, Settings
from pruneyard.workloads.seeding import stream_seed

__all__ = ["BlockDigits"]


@dataclass(frozen=True, kw_only=True)
class BlockDigits(WrappingSource):
    """base: a source of grey images, such as `digits` or `mnist`. seed: of the halves."""

    examples: ClassVar[tuple[Settings, ...]] = ({},)

    base: Annotated[Source, Plugin("data.sources")] = Digits()
    seed: int = 0

    def load(self) -> Dataset:
        """Returns the other set with empty blocks. Raises `ValueError` if its images are not grey."""
        data = self.base.load()
        if not data.pixels or data.image_shape[0] != 1:
            raise ValueError(f"base is {data.name}, whose rows have the shape {data.image_shape}; they must be images (1, H, W)")
        names = ("train", "val", "calib", "test")
        splits = {name: self._stacked(getattr(data, name), name) for name in names}
        mean, std = input_statistics(splits["train"].images, pixels=True)
        stacked = replace(data, train=splits["train"], val=splits["val"], calib=splits["calib"], test=splits["test"])
        return replace(stacked, name=plugins.name_of(self), mean=mean, std=std)

    def signal_places(self, images: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
        """Returns which places hold the image and not the empty block, (N, 2 H W), for images (N, 1, 2 H, W) as loaded."""
        height, width = images.shape[2] // 2, images.shape[3]
        block = empty_block(height, width, dtype=images.dtype)
        is_below = (images[:, 0, :height] == block).all(axis=(1, 2))
        halves = np.stack((~is_below, is_below), axis=1)
        return np.repeat(halves, height * width, axis=1)

    def _stacked(self, split: Split, part: str) -> Split:
        generator = np.random.default_rng(stream_seed(self.seed, f"block_digits/{part}"))
        is_below = generator.random(len(split)) < 0.5
        _, _, height, width = split.images.shape
        block = np.broadcast_to(empty_block(height, width, dtype=split.images.dtype), split.images.shape)
        first = np.where(is_below[:, None, None, None], block, split.images)
        second = np.where(is_below[:, None, None, None], split.images, block)
        return replace(split, images=np.ascontiguousarray(np.concatenate((first, second), axis=2)))


def empty_block(height: int, width: int, *, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Returns a square with its diagonals, (H, W): white lines on black, white being 255."""
    rows, columns = np.mgrid[:height, :width]
    edge = (rows == 0) | (rows == height - 1) | (columns == 0) | (columns == width - 1)
    across = np.rint(rows * (width - 1) / max(1, height - 1)).astype(int)
    lines = edge | (columns == across) | (columns == width - 1 - across)
    block: npt.NDArray[np.generic] = (lines * 255).astype(dtype)
    return block
