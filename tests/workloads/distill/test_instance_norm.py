"""Instance norm with explicit second derivatives: equal to PyTorch's, and used only where it applies."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill import matching
from pruneyard.workloads.distill.instance_norm import TwiceDifferentiable, instance_norm
from pruneyard.workloads.models.convnet import ConvNet


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_order(normed: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradient of a nonlinear function of the output, and a gradient of that gradient."""
    (first,) = torch.autograd.grad((normed**3).sum(), images, create_graph=True)
    (second,) = torch.autograd.grad((first * draws(*first.shape, seed=9)).sum(), images)
    return first.detach(), second


@each_case("shape", [(2, 3, 4, 5), (1, 1, 2, 2), (3, 2, 1, 7)])
def test_gradients_are_those_of_group_norm(shape: tuple[int, ...]) -> None:
    images, weight, bias = draws(*shape).requires_grad_(), draws(shape[1], seed=1), draws(shape[1], seed=2)
    for eps in (1e-5, 0.5):
        ours = instance_norm(images, weight, bias, eps)
        theirs = functional.group_norm(images, shape[1], weight, bias, eps)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        for found, wanted in zip(second_order(ours, images), second_order(theirs, images), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_second_derivatives_agree_with_finite_differences() -> None:
    images, weight, bias = draws(2, 2, 3, 3).requires_grad_(), draws(2, seed=1), draws(2, seed=2)
    assert torch.autograd.gradgradcheck(lambda x: instance_norm(x, weight, bias, 1e-5), (images,))


def test_images_in_another_memory_order_are_the_same() -> None:
    images, weight, bias = draws(2, 3, 4, 4), draws(3, seed=1), draws(3, seed=2)
    other = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    plain = images.clone().requires_grad_()
    for found, wanted in zip(
        second_order(instance_norm(other, weight, bias, 1e-5), other),
        second_order(instance_norm(plain, weight, bias, 1e-5), plain),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@each_case(
    ("norm", "is_ours"),
    [
        (nn.GroupNorm(4, 4), True),
        (nn.GroupNorm(2, 4), False),
        (nn.GroupNorm(4, 4, affine=False), False),
        (nn.BatchNorm2d(4), False),
        (nn.LayerNorm((4, 3, 3)), False),
    ],
)
def test_other_norms_are_left_alone(norm: nn.Module, is_ours: bool) -> None:
    images = torch.rand(2, 4, 3, 3, requires_grad=True)
    with TwiceDifferentiable():
        normed = norm(images)
    assert (type(normed.grad_fn).__name__ == "_InstanceNormBackward") == is_ours
    assert type(norm(images).grad_fn).__name__ != "_InstanceNormBackward"
    torch.testing.assert_close(normed, norm(images))


@pytest.mark.parametrize("norm", ["instance", "group", "none", "batch"])
@pytest.mark.parametrize("by", sorted(matching.DISTANCES))
def test_pieces_are_matched_like_the_whole(norm: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the definition: differentiate the distance through PyTorch's own norm, all images at once."""
    torch.manual_seed(0)
    network = ConvNet(width=4, depth=2, norm=norm).build(image_shape=(1, 8, 8), num_classes=3).double()  # type: ignore[arg-type]
    for parameter in network.parameters():
        parameter.data += 0.1 * draws(*parameter.shape, seed=parameter.ndim)
    parameters = matching.matched_parameters(network, classifier=True)
    images, labels = draws(7, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    wanted = [0.1 * draws(*parameter.shape, seed=5) for parameter in parameters]
    leaf = images.clone().requires_grad_()
    network.train()
    distance = matching.DISTANCES[by](
        matching.loss_gradient(network, parameters, leaf, labels, graph=True), wanted
    )
    (gradient,) = torch.autograd.grad(distance, leaf)
    pieces: list[int] = []
    network.register_forward_hook(lambda module, inputs, output: pieces.append(len(output)))
    monkeypatch.setattr(matching, "_rows_in_cache", lambda network, image: 3)
    loss, found = matching.match_gradients(network, parameters, images, labels, wanted, distance=by)
    assert pieces == ([7] if norm == "batch" else [3, 3, 1])
    torch.testing.assert_close(loss, distance.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-10)
