"""Fashion-MNIST: 60,000 + 10,000 grey images of clothes, 28x28, in ten classes, from idx-ubyte files.

Reference: Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv 1708.07747
"""

from dataclasses import dataclass

from torchvision import datasets

from pruneyard.workloads.data.torchvision_source import IdxFileSource, idx_files

__all__ = ["FashionMnist"]


@dataclass(frozen=True, kw_only=True)
class FashionMnist(IdxFileSource):
    files = idx_files("FashionMNIST")
    opener = datasets.FashionMNIST
