"""Random pixels under labels that say nothing, drawn from a seed: an unknown set that needs no download.

A network asked about it has nothing to recognise; one trained on it can only memorise.

Reference: Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples, arXiv 1610.02136
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pruneyard.workloads.data.dataset import Published, Publisher, Split
from pruneyard.workloads.seeding import stream_seed

__all__ = ["Noise"]

NUM_CLASSES = 10  # labels 0 ... 9 in turn


@dataclass(frozen=True, kw_only=True)
class Noise(Publisher):
    """Every pixel of every channel is drawn by itself.

    uniform: any of 0 ... 255; gaussian: mean 127.5 and standard deviation 63.75, cut off at 0 and 255; binary: 0 or 255.
    Images brought to another size are averaged by that, so `shape` is best that of the data they are compared with.
    """

    distribution: Literal["uniform", "gaussian", "binary"] = "uniform"
    shape: tuple[int, int, int] = (3, 32, 32)  # channels, height, width
    num_train: int = 1000  # val and calib among them
    num_test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.shape) < 1:
            raise ValueError(f"shape is {list(self.shape)}; channels, height and width must be 1 or more")
        for name in ("num_train", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def read(self) -> Published:
        """Draws both parts; each is the start of a longer one with the same seed."""
        return Published(
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
        drawn = generator.standard_normal(shape, dtype=np.float32) * np.float32(63.75) + np.float32(127.5)
        pixels: npt.NDArray[np.uint8] = np.rint(drawn.clip(0, 255)).astype(np.uint8)
        return pixels
