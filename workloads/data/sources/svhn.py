"""SVHN: 73,257 + 26,032 colour images of house numbers, 32x32, from *_32x32.mat files.

The easier "extra" images are not used. torchvision checks the MD5 sums of the files before it reads them.

Reference: Netzer et al., Reading digits in natural images with unsupervised feature learning, 2011
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torchvision import datasets

from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.data.torchvision_source import TorchvisionSource

__all__ = ["Svhn"]


@dataclass(frozen=True, kw_only=True)
class Svhn(TorchvisionSource):
    files: ClassVar[tuple[str, ...]] = ("train_32x32.mat", "test_32x32.mat")

    def open(self, folder: Path, *, train: bool, download: bool) -> Any:
        # SVHN has no argument `train`, unlike the other sets.
        return datasets.SVHN(folder, split="train" if train else "test", download=download)

    def rows(self, opened: Any) -> Split:
        return Split.from_arrays(opened.data, opened.labels)

    def class_names(self, opened: Any) -> Sequence[str]:
        return [str(digit) for digit in range(10)]
