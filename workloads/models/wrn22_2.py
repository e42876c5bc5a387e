"""WRN-22-2, the wide residual network of sparse-training papers: nine blocks of 32, 64 and 128 channels.

Convolutions start He-normal (fan-out), as in the papers' code. Dropout, if any, stands before the second convolution of
every block.

Reference: Zagoruyko and Komodakis, Wide residual networks, arXiv 1605.07146
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from torch import Tensor, nn

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.networks.builder import check_dropout, image_sides
from pruneyard.workloads.networks.initialisation import he_normal
from pruneyard.workloads.networks.residual import add_classifier, conv1x1, conv3x3

__all__ = ["Wrn22x2"]

STEM = 16
STAGES = (32, 64, 128)
BLOCKS_PER_STAGE = 3  # (22 - 4) / 6


@dataclass(frozen=True, kw_only=True)
class Wrn22x2:
    dropout: float = field(default=0.0, metadata=NEUTRAL_BY_DEFAULT)  # in every block

    def __post_init__(self) -> None:
        check_dropout(self.dropout)

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        network = nn.Sequential()
        network.add_module("stem", conv3x3(image_sides(image_shape)[0], STEM))
        channels = STEM
        for number, out_channels in enumerate(STAGES, start=1):
            stage = nn.Sequential()
            for place in range(BLOCKS_PER_STAGE):
                stride = 2 if number > 1 and place == 0 else 1
                stage.append(PreActivationBlock(channels, out_channels, stride=stride, dropout=self.dropout))
                channels = out_channels
            network.add_module(f"stage{number}", stage)
        network.add_module("norm", nn.BatchNorm2d(channels))
        network.add_module("relu", nn.ReLU(inplace=True))
        add_classifier(network, channels, num_classes)
        he_normal(network)
        return network


class PreActivationBlock(nn.Module):
    """x + branch(norm-relu(x)); where shapes differ, the shortcut is a 1x1 convolution of norm-relu(x)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True))
        left_out = {"dropout": nn.Dropout(dropout)} if dropout else {}  # named: the rest keep their names
        self.branch = nn.Sequential(
            OrderedDict(
                {
                    "0": conv3x3(in_channels, out_channels, stride),
                    "1": nn.BatchNorm2d(out_channels),
                    "2": nn.ReLU(inplace=True),
                    **left_out,
                    "3": conv3x3(out_channels, out_channels),
                }
            )
        )
        changes = stride != 1 or in_channels != out_channels
        self.projection = conv1x1(in_channels, out_channels, stride) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride), rounded up."""
        active = self.activation(images)
        shortcut = images if self.projection is None else self.projection(active)
        return self.branch(active) + shortcut  # type: ignore[no-any-return]
