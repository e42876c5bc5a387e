"""60,000 + 10,000 handwritten digits, grey, 28x28, from idx-ubyte files through torchvision.

Reference: LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86, 1998
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torchvision import datasets

from workloads.data.torchvision_source import GreyDigitsLike

__all__ = ["Mnist"]


@dataclass(frozen=True, kw_only=True)
class Mnist(GreyDigitsLike):
    files: ClassVar[tuple[str, ...]] = (
        "MNIST/raw/train-images-idx3-ubyte",
        "MNIST/raw/train-labels-idx1-ubyte",
        "MNIST/raw/t10k-images-idx3-ubyte",
        "MNIST/raw/t10k-labels-idx1-ubyte",
    )

    def open(self, folder: Path, *, train: bool, download: bool) -> Any:
        return datasets.MNIST(folder, train=train, download=download)
