"""Blocks of 3x3 convolution, norm, ReLU and 2x2 pooling, then a linear layer, as in distillation papers.

With the defaults and CIFAR-10 it has 320,010 parameters. The first convolution pads grey images of 28x28 to
32x32, so that they have as many features. Instance norm has affine parameters and no running statistics, so
train and evaluation agree. It has PyTorch's default initialisation: synthetic images are fitted to, and
evaluated with, networks of this distribution.

Reference: Zhao, Mopuri and Bilen, Dataset condensation with gradient matching, arXiv 2006.05929
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.networks.builder import check_dropout, image_sides

__all__ = ["ConvNet"]

GROUPS = 4  # of group norm


@dataclass(frozen=True, kw_only=True)
class ConvNet:
    depth: int = 3  # blocks; each halves the image
    width: int = 128  # channels of every block
    norm: Literal["none", "batch", "instance", "group", "layer"] = "instance"
    pooling: Literal["avg", "max"] = "avg"
    dropout: float = field(default=0.0, metadata=NEUTRAL_BY_DEFAULT)  # after every block

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}; it must be at least 1")
        if self.width < 1:
            raise ValueError(f"width is {self.width}; it must be at least 1")
        if self.norm == "group" and self.width % GROUPS:
            raise ValueError(f"width is {self.width}; it must be a multiple of {GROUPS} for group norm")
        check_dropout(self.dropout)

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        channels, height, width = image_sides(image_shape)
        first_padding = 3 if image_shape == (1, 28, 28) else 1
        height, width = height + 2 * (first_padding - 1), width + 2 * (first_padding - 1)
        deepest = min(height, width).bit_length() - 1
        if self.depth > deepest:
            images = f"images of {image_shape[1]}x{image_shape[2]}, which every block halves"
            raise ValueError(f"depth is {self.depth}; it must be at most {deepest} for {images}")
        network = nn.Sequential()
        for number in range(1, self.depth + 1):
            padding = first_padding if number == 1 else 1
            block = nn.Sequential()
            block.add_module("conv", nn.Conv2d(channels, self.width, kernel_size=3, padding=padding))
            block.add_module("norm", self._norm(height, width))
            block.add_module("relu", nn.ReLU())
            block.add_module("pool", nn.AvgPool2d(2) if self.pooling == "avg" else nn.MaxPool2d(2))
            if self.dropout:
                block.add_module("dropout", nn.Dropout(self.dropout))
            network.add_module(f"block{number}", block)
            channels, height, width = self.width, height // 2, width // 2
        network.add_module("flatten", nn.Flatten())
        network.add_module("classifier", nn.Linear(channels * height * width, num_classes))
        return network

    def _norm(self, height: int, width: int) -> nn.Module:
        """Returns the norm of one block, for maps of height x width."""
        match self.norm:
            case "none":
                return nn.Identity()
            case "batch":
                return nn.BatchNorm2d(self.width)
            case "instance":
                return nn.GroupNorm(self.width, self.width)
            case "group":
                return nn.GroupNorm(GROUPS, self.width)
            case "layer":
                return nn.LayerNorm((self.width, height, width))
