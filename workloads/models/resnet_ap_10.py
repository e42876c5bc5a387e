"""ResNet-10 with average pooling for strides, and instance norm: the network that distils subsets of ImageNet.

Four stages of one basic block. Images larger than 128 pixels meet a 7x7 stem and a pooling of 4, those larger than 64 a
3x3 stem and a pooling of 2, smaller ones a 3x3 stem alone. In a block that halves the image the pooling stands before the
second convolution. The shortcut is pooled before its 1x1 convolution, in the released code after it: both are linear, so
this is the same for a quarter of the work. Convolutions start He-normal (fan-out).

Reference: Kim et al. 2022, Dataset Condensation via Efficient Synthetic-Data Parameterization (IDC, arXiv:2205.14959)
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from pruneyard.workloads.networks.builder import image_sides
from pruneyard.workloads.networks.initialisation import he_normal
from pruneyard.workloads.networks.residual import Block, add_classifier, conv1x1, conv3x3

__all__ = ["ResNetAP10"]

STEM = 64
STAGES = (64, 128, 256, 512)  # channels; all stages but the first halve the image
SMALLEST_SIDE = {"instance": 16, "batch": 8}  # instance norm of a single pixel is always 0


@dataclass(frozen=True, kw_only=True)
class ResNetAP10:
    norm: Literal["instance", "batch"] = "instance"

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        in_channels, height, width = image_sides(image_shape)
        least = SMALLEST_SIDE[self.norm]
        if min(height, width) < least:
            raise ValueError(
                f"resnet_ap_10 is given images of {height}x{width}; with {self.norm} norm they must be {least}x{least} or more"
            )
        network = nn.Sequential()
        network.add_module("stem", self._stem(in_channels, max(height, width)))
        channels = STEM
        for number, out_channels in enumerate(STAGES, start=1):
            block = self._block(channels, out_channels, pool=1 if number == 1 else 2)
            network.add_module(f"stage{number}", block)
            channels = out_channels
        add_classifier(network, channels, num_classes)
        he_normal(network)
        return network

    def _stem(self, in_channels: int, side: int) -> nn.Sequential:
        """Returns the stem for images with `side` pixels along their longer side."""
        size, pool = (7, 4) if side > 128 else (3, 2) if side > 64 else (3, 1)
        convolution = nn.Conv2d(in_channels, STEM, kernel_size=size, padding=size // 2, bias=False)
        return nn.Sequential(convolution, self._norm(STEM), nn.ReLU(inplace=True), pooling(pool))

    def _block(self, in_channels: int, out_channels: int, *, pool: int) -> Block:
        """Returns a block that pools by `pool` along each side."""
        branch = nn.Sequential(
            conv3x3(in_channels, out_channels),
            self._norm(out_channels),
            nn.ReLU(inplace=True),
            pooling(pool),
            conv3x3(out_channels, out_channels),
            self._norm(out_channels),
        )
        if pool == 1 and in_channels == out_channels:
            return Block(branch, nn.Identity())
        shortcut = nn.Sequential(pooling(pool), conv1x1(in_channels, out_channels), self._norm(out_channels))
        return Block(branch, shortcut)

    def _norm(self, channels: int) -> nn.Module:
        """Returns a norm with scale and shift per channel; instance norm has no running statistics."""
        return nn.BatchNorm2d(channels) if self.norm == "batch" else nn.GroupNorm(channels, channels)


def pooling(size: int) -> nn.Module:
    """Returns average pooling over size x size pixels, which drops remaining pixels at the right and bottom."""
    return nn.AvgPool2d(size) if size > 1 else nn.Identity()
