"""ResNet-20 for CIFAR: three stages of three basic blocks with 16, 32 and 64 channels.

Shortcuts have no weights, as in the paper's CIFAR networks: every second pixel, and zeros for new channels.
Convolutions start He-normal (fan-out).

Reference: He, Zhang, Ren and Sun, Deep residual learning for image recognition, arXiv 1512.03385
"""

from dataclasses import dataclass

from torch import Tensor, nn

from pruneyard.workloads.networks.residual import Block, basic_block, residual_network

__all__ = ["ResNet20"]


@dataclass(frozen=True, kw_only=True)
class ResNet20:
    def build(self, *, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        return residual_network(
            block,
            stem=16,
            stages=((16, 3), (32, 3), (64, 3)),
            in_channels=image_shape[0],
            num_classes=num_classes,
        )


def block(in_channels: int, out_channels: int, stride: int) -> Block:
    """Returns a basic block whose shortcut has no weights."""
    same = stride == 1 and in_channels == out_channels
    shortcut = nn.Identity() if same else PadShortcut(in_channels, out_channels, stride)
    return basic_block(in_channels, out_channels, stride, shortcut=shortcut)


class PadShortcut(nn.Module):
    """Keeps every `stride`-th pixel and puts zero channels on both sides of the old ones."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride), rounded up."""
        kept = images[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(kept, (0, 0, 0, 0, self.before, self.after))
