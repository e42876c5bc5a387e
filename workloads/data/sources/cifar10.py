"""CIFAR-10: 50,000 + 10,000 colour images of 32x32 in ten classes, from cifar-10-batches-py.

The publisher's files are pickles; torchvision opens them only after checking their MD5 sums.

Reference: Krizhevsky, Learning multiple layers of features from tiny images, University of Toronto, 2009
"""

from dataclasses import dataclass

from torchvision import datasets

from pruneyard.workloads.data.torchvision_source import PickledBatchSource

__all__ = ["Cifar10"]


@dataclass(frozen=True, kw_only=True)
class Cifar10(PickledBatchSource):
    files = ("cifar-10-batches-py",)
    opener = datasets.CIFAR10
