"""50,000 + 10,000 colour pictures of 32x32 in ten classes, from cifar-10-batches-py through torchvision.

The publisher's files are pickles; torchvision opens them only after comparing their MD5 sums.

Reference: Krizhevsky, Learning multiple layers of features from tiny images, University of Toronto, 2009
"""

from dataclasses import dataclass

from torchvision import datasets

from pruneyard.workloads.data.torchvision_source import PickledBatches

__all__ = ["Cifar10"]


@dataclass(frozen=True, kw_only=True)
class Cifar10(PickledBatches):
    files = ("cifar-10-batches-py",)
    opener = datasets.CIFAR10
