"""ResNet-20 for CIFAR: three stages of three basic blocks with 16, 32 and 64 channels.

Shortcuts have no weights, as in the paper's CIFAR networks: every second pixel, and zeros for new channels.
Convolutions start He-normal (fan-out).

Reference: He, Zhang, Ren and Sun, Deep residual learning for image recognition, arXiv 1512.03385
"""

from dataclasses import dataclass

from torch import nn

from pruneyard.workloads.networks.builder import image_sides
from pruneyard.workloads.networks.residual import Block, PadShortcut, basic_block, residual_network

__all__ = ["ResNet20"]


@dataclass(frozen=True, kw_only=True)
class ResNet20:
    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        return residual_network(
            block,
            stem=16,
            stages=((16, 3), (32, 3), (64, 3)),
            in_channels=image_sides(image_shape)[0],
            num_classes=num_classes,
        )


def block(in_channels: int, out_channels: int, stride: int) -> Block:
    """Returns a basic block whose shortcut has no weights."""
    same = stride == 1 and in_channels == out_channels
    shortcut = nn.Identity() if same else PadShortcut(in_channels, out_channels, stride)
    return basic_block(in_channels, out_channels, stride, shortcut=shortcut)
