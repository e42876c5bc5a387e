"""Another set's images under one corruption of CIFAR-10-C, or rotated or blurred; labels stay.

With the default, only the test rows are corrupted: the shift that the probe `shift` measures over all severities. With all
splits, training sees corrupted images too. Images are normalised with the statistics of the training rows as they are then.

Reference: Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations
(arXiv:1903.12261); see `workloads/data/corruptions/catalogue.py`
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch

from pruneyard.workloads import plugins
from pruneyard.workloads.data.corruptions.catalogue import check_corruption, corrupt
from pruneyard.workloads.data.dataset import Dataset, Source, Split, WrappingSource
from pruneyard.workloads.data.input_statistics import input_statistics
from pruneyard.workloads.plugins import Plugin, Settings

__all__ = ["Corrupted"]

SPLITS = ("train", "val", "calib", "test")
ROWS_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Corrupted(WrappingSource):
    """splits: those whose rows are corrupted. severity: 0 ... 5; 0 changes nothing. seed: of the random numbers."""

    examples: ClassVar[tuple[Settings, ...]] = ({"base": {"name": "digits"}, "corruption": "gaussian_noise"},)

    base: Annotated[Source, Plugin("data.sources")]
    corruption: str
    severity: int = 3
    splits: tuple[str, ...] = ("test",)
    seed: int = 0

    def __post_init__(self) -> None:
        check_corruption(self.corruption, field="corruption")
        if not 0 <= self.severity <= 5:
            raise ValueError(f"severity is {self.severity}; it must lie in 0 ... 5")
        if not self.splits or not set(self.splits) <= set(SPLITS) or len(set(self.splits)) < len(self.splits):
            raise ValueError(f"splits is {list(self.splits)}; it must list some of {', '.join(SPLITS)}, none of them twice")

    def load(self) -> Dataset:
        """Returns the other set with corrupted rows. Raises `ValueError` if its rows are features."""
        data = self.base.load()
        if not data.pixels:
            raise ValueError(f"base is {data.name}, whose rows are features; only images can be corrupted")
        splits = {name: getattr(data, name) for name in SPLITS}
        splits |= {name: self._corrupted(splits[name]) for name in self.splits}
        if "train" in self.splits:
            mean, std = input_statistics(splits["train"].images, pixels=True)
            data = replace(data, mean=mean, std=std)
        data = replace(data, train=splits["train"], val=splits["val"], calib=splits["calib"], test=splits["test"])
        return replace(data, name=plugins.name_of(self))

    def _corrupted(self, split: Split) -> Split:
        parts = [split.take(rows) for rows in np.split(np.arange(len(split)), range(ROWS_AT_ONCE, len(split), ROWS_AT_ONCE))]
        images = [
            corrupt(
                torch.from_numpy(part.images),
                self.corruption,
                self.severity,
                rows=torch.from_numpy(part.row_ids),
                seed=self.seed,
            ).numpy()
            for part in parts
        ]
        return replace(split, images=np.concatenate(images))
