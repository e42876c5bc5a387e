"""60,000 + 10,000 pictures of clothes in ten classes, grey, 28x28, from idx-ubyte files through torchvision.

Reference: Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv 1708.07747
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torchvision import datasets

from workloads.data.torchvision_source import GreyDigitsLike

__all__ = ["FashionMnist"]


@dataclass(frozen=True, kw_only=True)
class FashionMnist(GreyDigitsLike):
    files: ClassVar[tuple[str, ...]] = (
        "FashionMNIST/raw/train-images-idx3-ubyte",
        "FashionMNIST/raw/train-labels-idx1-ubyte",
        "FashionMNIST/raw/t10k-images-idx3-ubyte",
        "FashionMNIST/raw/t10k-labels-idx1-ubyte",
    )

    def open(self, folder: Path, *, train: bool, download: bool) -> Any:
        return datasets.FashionMNIST(folder, train=train, download=download)
