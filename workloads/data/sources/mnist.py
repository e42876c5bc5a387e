"""MNIST: 60,000 + 10,000 grey images of handwritten digits, 28x28, from idx-ubyte files.

Reference: LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86, 1998
"""

from dataclasses import dataclass

from torchvision import datasets

from pruneyard.workloads.data.torchvision_source import IdxFileSource, idx_files

__all__ = ["Mnist"]


@dataclass(frozen=True, kw_only=True)
class Mnist(IdxFileSource):
    files = idx_files("MNIST")
    opener = datasets.MNIST
