"""60,000 + 10,000 pictures of clothes in ten classes, grey, 28x28, from idx-ubyte files through torchvision.

Reference: Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv 1708.07747
"""

from dataclasses import dataclass

from torchvision import datasets

from pruneyard.workloads.data.torchvision_source import GreyDigitsLike, idx_files

__all__ = ["FashionMnist"]


@dataclass(frozen=True, kw_only=True)
class FashionMnist(GreyDigitsLike):
    files = idx_files("FashionMNIST")
    opener = datasets.FashionMNIST
