"""VGG-19 for CIFAR: 16 convolutions with batch norm, global average pooling and one linear layer.

The last of the five poolings averages whatever is left of the image (2x2 for CIFAR), so images need at least
16 pixels on a side. Convolutions start He-normal (fan-out): with batch norm no staged pre-training is needed.

Reference: Simonyan and Zisserman, Very deep convolutional networks, arXiv 1409.1556
"""

from dataclasses import dataclass

from torch import nn

from pruneyard.workloads.networks.builder import image_sides
from pruneyard.workloads.networks.initialisation import he_normal
from pruneyard.workloads.networks.residual import add_classifier, conv3x3

__all__ = ["Vgg19"]

STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels, convolutions
SMALLEST_SIDE = 16


@dataclass(frozen=True, kw_only=True)
class Vgg19:
    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        channels, height, width = image_sides(image_shape)
        if min(height, width) < SMALLEST_SIDE:
            allowed = f"{SMALLEST_SIDE}x{SMALLEST_SIDE} or more"
            raise ValueError(f"vgg19 is given images of {height}x{width}; they must be {allowed}")
        network = nn.Sequential()
        for number, (out_channels, num_convolutions) in enumerate(STAGES, start=1):
            stage = nn.Sequential()
            for _ in range(num_convolutions):
                stage.append(conv3x3(channels, out_channels))
                stage.extend([nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)])
                channels = out_channels
            if number < len(STAGES):
                stage.append(nn.MaxPool2d(2))
            network.add_module(f"stage{number}", stage)
        add_classifier(network, channels, num_classes)
        he_normal(network)
        return network
