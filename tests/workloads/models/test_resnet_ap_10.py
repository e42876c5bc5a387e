"""ResNet-AP-10: its layers counted by hand, and pooling in place of strides."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from pruneyard.testing.cases import each_case
from pruneyard.workloads.models.resnet_ap_10 import ResNetAP10
from pruneyard.workloads.networks.flops import layer_macs
from pruneyard.workloads.networks.residual import Block

IMAGENET = (3, 224, 224)
HALVING = list(pairwise((64, 128, 256, 512)))


def network(image_shape: tuple[int, ...], norm: str = "instance") -> nn.Module:
    with torch.device("meta"):
        return ResNetAP10(norm=norm).build(image_shape=image_shape, num_classes=10)


@each_case(("side", "stem"), [(224, 7), (112, 3), (64, 3)])
def test_the_number_of_parameters_by_hand(side: int, stem: int) -> None:
    first = 3 * 64 * stem**2 + 2 * 64 + 2 * 9 * 64**2 + 2 * 2 * 64
    halving = sum(9 * (a * b + b * b) + a * b + 3 * 2 * b for a, b in HALVING)  # with the shortcuts' norms
    classifier = 512 * 10 + 10
    found = sum(parameter.numel() for parameter in network((3, side, side)).parameters())
    assert found == first + halving + classifier
    assert found == {7: 4_910_922, 3: 4_903_242}[stem]


def test_multiply_adds_by_hand() -> None:
    macs = list(layer_macs(network(IMAGENET), IMAGENET).values())
    sides = (56, 28, 14, 7)
    halving = [
        part
        for (a, b), (before, after) in zip(HALVING, pairwise(sides), strict=True)
        for part in (9 * a * b * before**2, 9 * b * b * after**2, a * b * after**2)
    ]
    assert macs == [3 * 64 * 49 * 224**2, *[9 * 64**2 * 56**2] * 2, *halving, 5120]


@each_case(("side", "last"), [(224, 7), (129, 4), (128, 8), (96, 6), (64, 8), (32, 4), (16, 2)])
def test_images_shrink_by_pooling_alone(side: int, last: int) -> None:
    built = network((3, side, side))
    seen = built[:-3](torch.zeros(2, 3, side, side, device="meta"))
    assert seen.shape == (2, 512, last, last)
    assert all(module.stride == (1, 1) for module in built.modules() if isinstance(module, nn.Conv2d))


def test_a_shortcut_is_the_released_one_whose_pooling_comes_last() -> None:
    block = ResNetAP10().build(image_shape=(3, 32, 32), num_classes=2).stage2
    assert isinstance(block, Block)
    images = torch.randn(3, 64, 8, 8)
    pool, convolution, norm = block.shortcut
    released = norm(functional.avg_pool2d(convolution(images), 2))
    # float32, summed in another order
    torch.testing.assert_close(block.shortcut(images), released, rtol=1e-4, atol=1e-5)
    assert isinstance(pool, nn.AvgPool2d)


def test_instance_norm_needs_no_other_image_and_batch_norm_does() -> None:
    images = torch.rand(3, 3, 16, 16)
    for norm, alone in (("instance", True), ("batch", False)):
        built = ResNetAP10(norm=norm).build(image_shape=(3, 16, 16), num_classes=4).train()  # type: ignore[arg-type]
        equal = torch.allclose(built(images)[:1], built(images[:2])[:1], rtol=1e-4, atol=1e-5)
        assert equal == alone


def test_images_that_the_norm_would_blank_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 15x40; with instance norm they must be 16x16 or more"):
        network((3, 15, 40))
    assert network((3, 8, 8), "batch").eval()(torch.zeros(1, 3, 8, 8, device="meta")).shape == (1, 10)


def test_gradients_of_matched_gradients_reach_the_images() -> None:
    built = ResNetAP10().build(image_shape=(1, 16, 16), num_classes=3).double()
    images = torch.rand(2, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    loss = functional.cross_entropy(built(images), torch.tensor([0, 2]))
    weights = [parameter for parameter in built.parameters() if parameter.ndim == 4]
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    squares = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    (found,) = torch.autograd.grad(squares, images)
    assert found.isfinite().all()
    assert found.abs().max() > 0
