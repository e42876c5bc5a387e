"""VGG-11 for small images: 8 convolutions with instance or batch norm and one linear layer.

Each of the five stages ends in a pooling; the last one averages whatever is left. Grey images of 28x28 are padded to 32x32 by the
first convolution. Convolutions have biases, and all layers have PyTorch's default initialisation.

Reference: Simonyan and Zisserman 2015 (arXiv:1409.1556), as Zhao, Mopuri and Bilen 2021 evaluate with it (arXiv:2006.05929)
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from pruneyard.workloads.networks.builder import image_sides
from pruneyard.workloads.networks.residual import add_classifier

__all__ = ["Vgg11"]

STAGES = ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2))  # channels, convolutions
SMALLEST_SIDE = {"instance": 32, "batch": 16}  # instance norm of a single pixel is always 0


@dataclass(frozen=True, kw_only=True)
class Vgg11:
    norm: Literal["instance", "batch"] = "instance"

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        channels, height, width = image_sides(image_shape)
        padding = 3 if image_shape == (1, 28, 28) else 1
        least = SMALLEST_SIDE[self.norm]
        if min(height, width) + 2 * (padding - 1) < least:
            raise ValueError(
                f"vgg11 is given images of {height}x{width}; with {self.norm} norm they must be {least}x{least} or more"
            )
        network = nn.Sequential()
        for number, (out_channels, num_convolutions) in enumerate(STAGES, start=1):
            stage = nn.Sequential()
            for _ in range(num_convolutions):
                stage.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=padding))
                stage.extend([self._norm(out_channels), nn.ReLU(inplace=True)])
                channels, padding = out_channels, 1
            if number < len(STAGES):
                stage.append(nn.MaxPool2d(2))
            network.add_module(f"stage{number}", stage)
        add_classifier(network, channels, num_classes)
        return network

    def _norm(self, channels: int) -> nn.Module:
        """Returns a norm with scale and shift per channel; instance norm has no running statistics."""
        return nn.BatchNorm2d(channels) if self.norm == "batch" else nn.GroupNorm(channels, channels)
