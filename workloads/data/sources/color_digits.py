"""Grey images in colours: in training most images have the colour of their class, in test they do not.

The colour is a planted shortcut: it predicts the label of training, val and calib rows with probability `correlation`, and
that of test rows with probability `test_correlation`. Every other image gets the colour of another class, all of them equally
likely. A network that relies on the colour loses accuracy on test. Colours and probabilities are our own.

Reference: Arjovsky et al. 2019, Invariant Risk Minimization (arXiv:1907.02893), for the idea
"""

import colorsys
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from pruneyard.workloads import plugins
from pruneyard.workloads.data.dataset import Dataset, Source, Split, WrappingSource
from pruneyard.workloads.data.input_statistics import input_statistics
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.plugins import Plugin, Settings
from pruneyard.workloads.seeding import stream_seed

__all__ = ["ColorDigits"]


@dataclass(frozen=True, kw_only=True)
class ColorDigits(WrappingSource):
    """base: a source of grey images, such as `digits` or `mnist`. seed: of the colours."""

    examples: ClassVar[tuple[Settings, ...]] = ({},)

    base: Annotated[Source, Plugin("data.sources")] = Digits()
    correlation: float = 0.95
    test_correlation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("correlation", "test_correlation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")

    def load(self) -> Dataset:
        """Returns the other set in colour. Raises `ValueError` if its images are not grey."""
        data = self.base.load()
        if not data.pixels or data.image_shape[0] != 1:
            raise ValueError(f"base is {data.name}, whose rows have the shape {data.image_shape}; they must be images (1, H, W)")
        shares = {"train": self.correlation, "val": self.correlation, "calib": self.correlation, "test": self.test_correlation}
        splits = {name: self._coloured(getattr(data, name), data.num_classes, name, share) for name, share in shares.items()}
        mean, std = input_statistics(splits["train"].images, pixels=True)
        coloured = replace(data, train=splits["train"], val=splits["val"], calib=splits["calib"], test=splits["test"])
        return replace(coloured, name=plugins.name_of(self), mean=mean, std=std)

    def _coloured(self, split: Split, num_classes: int, part: str, share: float) -> Split:
        generator = np.random.default_rng(stream_seed(self.seed, f"color_digits/{part}"))
        kept = generator.random(len(split)) < share
        others = (split.labels + generator.integers(1, max(2, num_classes), len(split))) % num_classes
        colours = palette(num_classes)[np.where(kept, split.labels, others)]  # (N, 3)
        images = split.images * colours[:, :, None, None]
        return replace(split, images=np.rint(images).astype(np.uint8) if split.images.dtype == np.uint8 else images)


def palette(num_classes: int) -> np.ndarray:
    """Returns a colour for each class, (K, 3) float32 in [0, 1]: hues at equal distances."""
    colours = [colorsys.hsv_to_rgb(number / num_classes, 1.0, 1.0) for number in range(num_classes)]
    return np.array(colours, dtype=np.float32)
