"""Sizes, shapes and initial weights of the networks."""

from math import prod, sqrt
from typing import Any

import pytest
import torch
from torch import nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads import plugins
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.models.resnet20 import PadShortcut
from pruneyard.workloads.models.wrn22_2 import PreActivationBlock
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.seeding import global_stream

CIFAR = (3, 32, 32)


def build(
    name: str, *, image_shape: tuple[int, int, int] = CIFAR, num_classes: int = 10, **fields: Any
) -> nn.Module:
    builder: ModelBuilder = plugins.find("models", name)(**fields)
    return builder.build(image_shape=image_shape, num_classes=num_classes)


def prunable(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def count_macs(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Counts the multiply-adds of one sample: every weight once for each place it is applied at."""
    macs = []

    def note(module: Any, _: object, output: torch.Tensor) -> None:
        macs.append(module.weight.numel() * prod(output.shape[2:]))

    for module in prunable(network):
        module.register_forward_hook(note)
    network.eval()(torch.zeros(1, *image_shape, device="meta"))
    return sum(macs)


@each_case(
    ("name", "num_weights", "macs"),
    [
        ("resnet50", 23_467_712, 1.298e9),
        ("wrn22_2", 1_076_912, 1.577e8),
        ("vgg19", 20_024_000, 3.981e8),
    ],
)
def test_networks_have_the_sizes_of_the_sparse_training_literature(
    name: str, num_weights: int, macs: float
) -> None:
    with torch.device("meta"):
        network = build(name)
    assert sum(module.weight.numel() for module in prunable(network)) == num_weights
    assert count_macs(network, CIFAR) == pytest.approx(macs, rel=5e-4)  # given to four digits


@each_case(
    ("name", "num_parameters"),
    [
        ("convnet", 320_010),
        ("resnet20", 269_722),  # "0.27M"; with weights in the shortcuts it would be 272,474
        ("resnet18", 11_173_962),
        ("resnet50", 23_520_842),
    ],
)
def test_networks_have_their_published_number_of_parameters(name: str, num_parameters: int) -> None:
    with torch.device("meta"):
        network = build(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters


@each_case(("name", "num_parameters", "macs"), [("resnet18", 11_689_512, 1.814e9), ("resnet50", 25_557_032, 4.089e9)])
def test_networks_with_the_large_stem_have_the_published_sizes_on_imagenet(
    name: str, num_parameters: int, macs: float
) -> None:
    with torch.device("meta"):
        network = build(name, image_shape=(3, 224, 224), num_classes=1000, stem="large")
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters
    assert count_macs(network, (3, 224, 224)) == pytest.approx(macs, rel=5e-4)


@each_case("name", ["resnet18", "resnet50"])
def test_large_images_are_refused_with_the_small_stem(name: str) -> None:
    with torch.device("meta"):
        build(name, image_shape=(3, 128, 128))
        message = "stem is small, for images of up to 128 pixels a side, and these have 96x224; set stem: large"
        with pytest.raises(ValueError, match=message):
            build(name, image_shape=(3, 96, 224))


def test_only_networks_with_many_poolings_refuse_small_images() -> None:
    smallest = {"vgg19": 16, "vgg11": 28, "resnet_ap_10": 16}
    # Those of torchvision depend on the architecture, those of a changed network on its base; a recommender takes a table.
    for name in set(plugins.names("models")) - {"torchvision", "timm", "narrowed", "layer_lottery", "recommender"}:
        side = smallest.get(name, 8)
        with torch.device("meta"):
            build(name, image_shape=(1, side, side))


def test_vgg19_refuses_images_that_its_poolings_would_use_up() -> None:
    with pytest.raises(ValueError, match="images of 8x8; they must be 16x16 or more"):
        build("vgg19", image_shape=(1, 8, 8))


def test_vgg11_has_eight_convolutions_and_refuses_images_that_its_norm_would_blank() -> None:
    convolutions = [module for module in build("vgg11").modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [64, 128, 256, 256, 512, 512, 512, 512]
    weights = sum(module.weight.numel() for module in convolutions)
    assert weights == 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256**2 + 256 * 512 + 3 * 512**2)
    with pytest.raises(ValueError, match="images of 17x23; with instance norm they must be 32x32 or more"):
        build("vgg11", image_shape=(3, 17, 23))
    assert build("vgg11", image_shape=(3, 17, 23), norm="batch").eval()(torch.zeros(1, 3, 17, 23)).shape == (1, 10)


@each_case("name", ["resnet20", "resnet18", "wrn22_2", "vgg19"])
def test_convolutions_start_he_normal_by_fan_out(name: str) -> None:
    with global_stream(0, "init"):
        network = build(name)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * prod(module.kernel_size)
            # the sample's standard deviation strays by 1 / sqrt(2 n); five of those
            tolerance = 5 / sqrt(2 * module.weight.numel())
            assert module.weight.std().item() * sqrt(fan_out / 2) == pytest.approx(1, abs=tolerance)
        elif isinstance(module, nn.BatchNorm2d):
            assert set(module.weight.tolist()) == {1}
            assert set(module.bias.tolist()) == {0}


@each_case("norm", ["none", "batch", "instance", "group", "layer"])
@each_case("pooling", ["avg", "max"])
def test_convnet_has_every_norm_and_pooling(norm: Any, pooling: Any) -> None:
    network = ConvNet(width=8, norm=norm, pooling=pooling).build(image_shape=(3, 17, 23), num_classes=4)
    assert network(torch.rand(3, 3, 17, 23)).shape == (3, 4)


def test_instance_norm_needs_no_other_image_and_no_mode() -> None:
    network = ConvNet(width=8).build(image_shape=(1, 8, 8), num_classes=4)
    images = torch.rand(5, 1, 8, 8)
    alone = network.eval()(images[:1])
    # a batch of five may be summed in another order than a batch of one
    torch.testing.assert_close(network.train()(images)[:1], alone, rtol=1e-5, atol=1e-6)


def test_convnet_makes_a_grey_28_as_large_as_a_cifar_image() -> None:
    networks = [build("convnet", image_shape=shape) for shape in (CIFAR, (1, 28, 28))]
    assert [network.get_submodule("classifier").in_features for network in networks] == [2048, 2048]


@each_case(("side", "deepest"), [(8, 3), (15, 3), (16, 4), (28, 5), (32, 5)])
def test_convnet_names_the_depth_that_an_image_allows(side: int, deepest: int) -> None:
    ConvNet(depth=deepest, width=4).build(image_shape=(1, side, side), num_classes=2)(
        torch.rand(2, 1, side, side)
    )
    with pytest.raises(
        ValueError, match=f"depth is {deepest + 1}; it must be at most {deepest} for images of {side}x"
    ):
        ConvNet(depth=deepest + 1, width=4).build(image_shape=(1, side, side), num_classes=2)


def test_an_mlp_of_depth_zero_is_linear() -> None:
    network = Mlp(depth=0).build(image_shape=(1, 8, 8), num_classes=10)
    assert [tuple(parameter.shape) for parameter in network.parameters()] == [(10, 64), (10,)]


@each_case(
    ("builder", "fields", "message"),
    [
        (Mlp, {"width": 0}, "width is 0; it must be at least 1"),
        (Mlp, {"depth": -1}, "depth is -1; it must be at least 0"),
        (ConvNet, {"depth": 0}, "depth is 0; it must be at least 1"),
        (ConvNet, {"width": 0}, "width is 0; it must be at least 1"),
        (ConvNet, {"width": 6, "norm": "group"}, "width is 6; it must be a multiple of 4 for group norm"),
    ],
)
def test_fields_out_of_range_are_refused(builder: type[Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        builder(**fields)


def test_the_weightless_shortcut_takes_every_second_pixel_and_adds_zero_channels() -> None:
    images = torch.arange(18.0).view(1, 2, 3, 3)
    shortened = PadShortcut(2, 4, stride=2)(images)
    assert shortened[0, 1:3].tolist() == [[[0, 2], [6, 8]], [[9, 11], [15, 17]]]
    assert shortened[0, [0, 3]].abs().sum() == 0


def test_a_pre_activation_block_passes_its_input_on_unchanged() -> None:
    block = PreActivationBlock(4, 4, stride=1)
    last = block.branch[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)
    images = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(images), images)
