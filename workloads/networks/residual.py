"""Residual networks: a stem for small or large images, stages of blocks, global average pooling.

Reference: He, Zhang, Ren and Sun, Deep residual learning for image recognition, arXiv 1512.03385
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.networks.initialisation import he_normal

LARGEST_SMALL_SIDE = 128  # pixels; beyond, the stem for small images costs about 16 times the work of the other one


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Returns the identity if shapes agree, else a 1x1 convolution with batch norm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class Block(nn.Module):
    """relu(branch(x) + shortcut(x))."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return self.relu(self.branch(images) + self.shortcut(images))  # type: ignore[no-any-return]


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


def basic_block(
    in_channels: int, out_channels: int, stride: int, *, shortcut: nn.Module | None = None
) -> Block:
    """Returns a block of two 3x3 convolutions, the first with the stride; the shortcut is a projection unless one is given."""
    branch = nn.Sequential(
        conv3x3(in_channels, out_channels, stride),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        conv3x3(out_channels, out_channels),
        nn.BatchNorm2d(out_channels),
    )
    if shortcut is None:
        shortcut = projection(in_channels, out_channels, stride)
    return Block(branch, shortcut)


def bottleneck(in_channels: int, out_channels: int, stride: int) -> Block:
    """Returns a block of 1x1, 3x3 (with the stride, as later code has it) and 1x1; the inner width is a quarter."""
    width = out_channels // 4
    branch = nn.Sequential(
        conv1x1(in_channels, width),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        conv3x3(width, width, stride),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        conv1x1(width, out_channels),
        nn.BatchNorm2d(out_channels),
    )
    return Block(branch, projection(in_channels, out_channels, stride))


def residual_network(
    block: Callable[[int, int, int], nn.Module],
    *,
    stem: int,
    stages: Sequence[tuple[int, int]],
    in_channels: int,
    num_classes: int,
    large_images: bool = False,
) -> nn.Sequential:
    """Returns a network of `stages`: (output channels, blocks) each; every stage but the first halves the image.

    stem: channels of the first convolution; in_channels: of the images, of any size, since halving rounds up.
    large_images: with the stem of the paper's ImageNet networks, which quarters the image, not a 3x3 convolution.
    """
    network = nn.Sequential()
    first = nn.Conv2d(in_channels, stem, kernel_size=7, stride=2, padding=3, bias=False)
    network.add_module("stem", first if large_images else conv3x3(in_channels, stem))
    network.add_module("norm", nn.BatchNorm2d(stem))
    network.add_module("relu", nn.ReLU(inplace=True))
    if large_images:
        network.add_module("stem_pool", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    channels = stem
    for number, (out_channels, num_blocks) in enumerate(stages, start=1):
        stage = nn.Sequential(block(channels, out_channels, 1 if number == 1 else 2))
        for _ in range(num_blocks - 1):
            stage.append(block(out_channels, out_channels, 1))
        network.add_module(f"stage{number}", stage)
        channels = out_channels
    add_classifier(network, channels, num_classes)
    he_normal(network)
    return network


def add_classifier(network: nn.Sequential, channels: int, num_classes: int) -> None:
    """Appends global average pooling and the linear layer named `classifier`."""
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", nn.Linear(channels, num_classes))


@dataclass(frozen=True, kw_only=True)
class ChosenStem:
    """The field of residual networks that were published with one stem for small images and another for large ones."""

    stem: Literal["small", "large"] = field(default="small", metadata=NEUTRAL_BY_DEFAULT)  # large: 7x7, and pooling, for ImageNet

    def __post_init__(self) -> None:
        if self.stem not in ("small", "large"):
            raise ValueError(f"stem is {self.stem!r}; it must be small or large")

    def is_large(self, image_shape: tuple[int, ...]) -> bool:
        """Returns whether the stem is that for large images. Raises `ValueError` for large images with the small stem."""
        _, height, width = image_shape
        if self.stem == "small" and max(height, width) > LARGEST_SMALL_SIDE:
            raise ValueError(
                f"stem is small, for images of up to {LARGEST_SMALL_SIDE} pixels a side, and these have {height}x{width}; "
                "set stem: large, or resize the images"
            )
        return self.stem == "large"
