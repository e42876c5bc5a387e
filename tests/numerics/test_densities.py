"""Layer densities and FLOP ratios of well-known networks: values that reproduce the RigL paper's tables."""

import math
from functools import cache

import pytest
import torch
import torchvision

from pruneyard.testing.cases import each_case
from pruneyard.workloads.masks.distributions import active_counts, erk
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.networks.flops import layer_macs
from pruneyard.workloads.plugins import find

Layers = dict[str, tuple[tuple[int, ...], int]]  # weight's shape and the number of output positions, by name


@cache
def layers_of(network: str) -> Layers:
    """Returns layers of one of our networks for 32x32 images and ten classes, or of torchvision's for ImageNet."""
    size = 224 if network == "imagenet" else 32
    with torch.device("meta"):
        if network == "imagenet":
            model = torchvision.models.resnet50()
        else:
            model = find("models", network)().build(image_shape=(3, size, size), num_classes=10)
    macs = layer_macs(model, (3, size, size))
    return {name: (tuple(w.shape), macs[name] // w.numel()) for name, w in prunable_weights(model).items()}


def num_macs(layers: Layers, active: dict[str, int]) -> int:
    """Counts multiply-adds; a layer that is not in `active` counts as dense."""
    return sum(active.get(name, math.prod(shape)) * places for name, (shape, places) in layers.items())


@each_case(
    ("network", "num_weights", "dense_macs"),
    [
        ("imagenet", 25_502_912, 4.089e9),
        ("resnet50", 23_467_712, 1.298e9),
        ("wrn22_2", 1_076_912, 1.577e8),
        ("vgg19", 20_024_000, 3.981e8),
    ],
)
def test_networks_have_the_published_size(network: str, num_weights: int, dense_macs: float) -> None:
    layers = layers_of(network)
    assert sum(math.prod(shape) for shape, _ in layers.values()) == num_weights
    assert num_macs(layers, {}) == pytest.approx(dense_macs, rel=5e-4)  # four digits are given


@each_case(
    ("network", "density", "erk_ratio", "num_full", "lowest", "uniform_ratio"),
    [
        ("imagenet", 0.20, 0.414, 8, 0.0435, 0.223),
        ("imagenet", 0.10, 0.242, 1, 0.0213, 0.126),
        ("imagenet", 0.05, 0.122, 0, 0.0106, 0.077),
        ("imagenet", 0.02, 0.049, 0, 0.0043, 0.048),
        ("resnet50", 0.10, 0.231, 3, 0.0206, 0.101),
        ("resnet50", 0.05, 0.116, 1, 0.0102, 0.051),
        ("resnet50", 0.02, 0.045, 0, 0.0040, 0.021),
        ("wrn22_2", 0.50, 0.728, 12, 0.373, 0.501),
        ("wrn22_2", 0.20, 0.352, 5, 0.134, 0.202),
        ("wrn22_2", 0.10, 0.174, 4, 0.064, 0.103),
        ("wrn22_2", 0.05, 0.088, 3, 0.031, 0.053),
        ("vgg19", 0.10, 0.222, 2, 0.083, 0.104),
        ("vgg19", 0.05, 0.113, 2, 0.041, 0.054),
        ("vgg19", 0.02, 0.047, 2, 0.016, 0.024),
    ],
)
def test_flop_ratios_are_the_published_ones(
    network: str, density: float, erk_ratio: float, num_full: int, lowest: float, uniform_ratio: float
) -> None:
    layers = layers_of(network)
    shapes = {name: shape for name, (shape, _) in layers.items()}
    by_kernel = active_counts(shapes, density=density, rule="erk")
    by_layer = active_counts(shapes, density=density, rule="uniform", keep_dense=["first"])
    dense = num_macs(layers, {})
    assert num_macs(layers, by_kernel) / dense == pytest.approx(erk_ratio, abs=0.0005)
    assert num_macs(layers, by_layer) / dense == pytest.approx(uniform_ratio, abs=0.0005)
    densities = erk(shapes, density)
    assert sum(value == 1 for value in densities.values()) == num_full
    assert min(densities.values()) == pytest.approx(lowest, abs=0.0005)
    assert sum(by_kernel.values()) == round(density * sum(map(math.prod, shapes.values())))


@each_case(
    ("layer", "density"),
    [
        ("conv1", 0.420),
        ("layer1.0.conv1", 1.0),
        ("layer1.0.conv2", 0.177),
        ("layer1.0.conv3", 0.959),
        ("layer2.1.conv2", 0.087),
        ("layer3.1.conv2", 0.043),
        ("layer4.0.conv1", 0.143),
        ("layer4.1.conv2", 0.0213),
        ("layer4.1.conv3", 0.119),
        ("layer4.0.downsample.0", 0.0715),
        ("fc", 0.0726),
    ],
)
def test_layers_of_resnet50_get_the_published_density(layer: str, density: float) -> None:
    shapes = {name: shape for name, (shape, _) in layers_of("imagenet").items()}
    assert erk(shapes, 0.1)[f"{layer}.weight"] == pytest.approx(density, abs=0.0005)
