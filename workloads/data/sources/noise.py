"""Random pixels with meaningless labels, sampled from a seed: out-of-distribution inputs without a download.

The images contain nothing to recognise; a network trained on them can only memorise.

Reference: Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples, arXiv 1610.02136
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pruneyard.workloads.data.dataset import PublishedDataset, PublishedSource, Split
from pruneyard.workloads.seeding import stream_seed

__all__ = ["Noise"]

NUM_CLASSES = 10  # labels repeat 0 ... 9


@dataclass(frozen=True, kw_only=True)
class Noise(PublishedSource):
    """Images whose pixels are sampled independently.

    uniform: any of 0 ... 255; gaussian: mean 127.5 and standard deviation 63.75, clipped to 0 and 255; binary: 0 or 255.
    Resizing averages the pixels, so choose the `shape` of the data that the noise is compared with.
    """

    distribution: Literal["uniform", "gaussian", "binary"] = "uniform"
    shape: tuple[int, int, int] = (3, 32, 32)  # channels, height, width
    num_train: int = 1000  # val and calib included
    num_test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.shape) < 1:
            raise ValueError(f"shape is {list(self.shape)}; channels, height and width must be 1 or more")
        for name in ("num_train", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def inputs(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> PublishedDataset:
        """Samples both parts. More rows with the same seed begin with the same images."""
        return PublishedDataset(
            classes=tuple(str(label) for label in range(NUM_CLASSES)),
            train=self._part("train", self.num_train),
            test=self._part("test", self.num_test),
        )

    def _part(self, name: str, num: int) -> Split:
        generator = np.random.default_rng(stream_seed(self.seed, f"noise/{name}"))
        return Split.from_arrays(self._pixels((num, *self.shape), generator), np.arange(num) % NUM_CLASSES)

    def _pixels(self, shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
        if self.distribution == "uniform":
            return generator.integers(0, 256, shape, dtype=np.uint8)
        if self.distribution == "binary":
            return generator.integers(0, 2, shape, dtype=np.uint8) * np.uint8(255)
        sampled = generator.standard_normal(shape, dtype=np.float32) * np.float32(63.75) + np.float32(127.5)
        pixels: npt.NDArray[np.uint8] = np.rint(sampled.clip(0, 255)).astype(np.uint8)
        return pixels
