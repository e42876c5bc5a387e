"""ResNet-18: four stages of two basic blocks.

The stem is one 3x3 convolution without pooling, as small images need; `stem: large` gives the 7x7 convolution and the pooling of
the ImageNet networks. Images of more than 128 pixels a side need it: with the small stem the network would cost 16 times as much.
Convolutions start He-normal (fan-out); the last batch norm of a block starts at 1 like all others.

Reference: He, Zhang, Ren and Sun, Deep residual learning for image recognition, arXiv 1512.03385
"""

from dataclasses import dataclass

from torch import nn

from pruneyard.workloads.networks.builder import image_sides
from pruneyard.workloads.networks.residual import ChosenStem, basic_block, residual_network

__all__ = ["ResNet18"]


@dataclass(frozen=True, kw_only=True)
class ResNet18(ChosenStem):
    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        return residual_network(
            basic_block,
            stem=64,
            stages=((64, 2), (128, 2), (256, 2), (512, 2)),
            in_channels=image_sides(image_shape)[0],
            num_classes=num_classes,
            large_images=self.is_large(image_shape),
        )
