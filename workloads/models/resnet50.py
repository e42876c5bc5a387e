"""ResNet-50: four stages of 3, 4, 6 and 3 bottleneck blocks.

The stem is one 3x3 convolution without pooling, as small images need; `stem: large` gives the 7x7 convolution and the pooling of
the ImageNet networks. Images of more than 128 pixels a side need it: with the small stem the network would cost 16 times as much.
Convolutions start He-normal (fan-out); the last batch norm of a block starts at 1 like all others.

Reference: He, Zhang, Ren and Sun, Deep residual learning for image recognition, arXiv 1512.03385
"""

from dataclasses import dataclass

from torch import nn

from pruneyard.workloads.networks.builder import image_sides
from pruneyard.workloads.networks.residual import ChosenStem, bottleneck, residual_network

__all__ = ["ResNet50"]


@dataclass(frozen=True, kw_only=True)
class ResNet50(ChosenStem):
    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        return residual_network(
            bottleneck,
            stem=64,
            stages=((256, 3), (512, 4), (1024, 6), (2048, 3)),
            in_channels=image_sides(image_shape)[0],
            num_classes=num_classes,
            large_images=self.is_large(image_shape),
        )
