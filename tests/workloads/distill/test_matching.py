"""Distances between gradients, by hand, and their gradients by the images against finite differences."""

import math
from collections.abc import Callable

import pytest
import torch
from distilling import generator
from torch import Tensor, nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill.initial_images import momentum_step
from pruneyard.workloads.distill.matching import (
    DISTANCES,
    absolute_distance,
    choose_chunk_size,
    chunked_gradient,
    cosine_distance,
    loss_gradient,
    match_gradients,
    matched_parameters,
    squared_distance,
)
from pruneyard.workloads.models.convnet import ConvNet

BY_NAME = sorted(DISTANCES)


def two_weights(first: float, second: float) -> nn.Module:
    """Returns logits (w1 x, w2 x)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[first], [second]], dtype=torch.float64))  # type: ignore[operator]
    return network


def pixel(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def small() -> tuple[nn.Module, list[nn.Parameter]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConvNet(width=3, depth=2).build(image_shape=(2, 8, 8), num_classes=4).double()
    return network, matched_parameters(network, classifier=True)


def batch(num: int, *, seed: int) -> tuple[Tensor, Tensor]:
    draws = generator(seed)
    return torch.randn((num, 2, 8, 8), generator=draws, dtype=torch.float64), torch.full((num,), seed % 4)


@each_case(
    ("distance", "loss", "slope"),
    # At w = 0 both probabilities are 1/2: gradients of class 0 are (-x/2, x/2); real 2, synthetic x = 1.
    [("squared", 0.5, -1.0), ("absolute", 1.0, -1.0), ("cosine", 2 * (1 - 0.5 / (0.5 + 1e-6)), None)],
)
def test_distances_of_a_network_of_two_weights(distance: str, loss: float, slope: float | None) -> None:
    network, label = two_weights(0, 0), torch.tensor([0])
    parameters = matched_parameters(network, classifier=True)
    wanted = loss_gradient(network, parameters, pixel(2), label)
    assert [float(value) for value in wanted[0]] == [-1, 1]
    found, gradient = match_gradients(network, parameters, pixel(1), label, wanted, distance=distance)
    assert float(found) == pytest.approx(loss, abs=1e-12)
    assert float(gradient) == pytest.approx(0 if slope is None else slope, abs=1e-5)


def test_the_slope_passes_through_the_network_as_well() -> None:
    """w = (ln 3, 0), x = 1: p = (3/4, 1/4), g = -+(1 - p1) x, dg/dx = 1/4 - 3/16 ln 3. Wanted (-1, 1): L = 2 (1/4 - 1)^2."""
    network, label = two_weights(math.log(3), 0), torch.tensor([0])
    wanted = [torch.tensor([[-1.0], [1.0]], dtype=torch.float64)]
    loss, slope = match_gradients(network, list(network.parameters()), pixel(1), label, wanted, distance="squared")
    assert float(loss) == pytest.approx(2 * 0.75**2, abs=1e-12)
    assert float(slope) == pytest.approx(4 * (0.25 - 1) * (0.25 - 3 / 16 * math.log(3)), abs=1e-12)


def test_the_cosine_is_taken_by_rows() -> None:
    """Rows (3, 4) and (4, 3): 24/25. Rows (1, 0) and (-2, 0): -1. Rows (0, 0) and any: 0."""
    synthetic = [torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)]
    real = [torch.tensor([[4.0, 3.0], [-2.0, 0.0], [1.0, 1.0]], dtype=torch.float64)]
    assert float(cosine_distance(synthetic, real)) == pytest.approx(1 / 25 + 2 + 1, abs=2e-6)


def test_differences_are_summed_over_layers_and_entries() -> None:
    synthetic, real = (
        [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])],
        [torch.tensor([[0.0, 4.0]]), torch.tensor([[2.5]])],
    )
    assert float(squared_distance(synthetic, real)) == 1 + 4 + 0.25
    assert float(absolute_distance(synthetic, real)) == 1 + 2 + 0.5


@each_case("distance", BY_NAME)
def test_gradients_agree_with_finite_differences(distance: str) -> None:
    network, parameters = small()
    (images, labels), (real, of_real) = batch(3, seed=0), batch(5, seed=4)
    wanted = loss_gradient(network, parameters, real, of_real)
    _, gradient = match_gradients(network, parameters, images, labels, wanted, distance=distance)
    step = 1e-6
    for place in torch.randperm(images.numel(), generator=generator())[:5].tolist():
        ends = []
        for sign in (1, -1):
            moved = images.clone()
            moved.view(-1)[place] += sign * step
            ends.append(float(match_gradients(network, parameters, moved, labels, wanted, distance=distance)[0]))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(gradient.view(-1)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


@each_case("distance", BY_NAME)
def test_the_same_images_on_both_sides_are_at_no_distance(distance: str) -> None:
    network, parameters = small()
    images, labels = batch(4, seed=1)
    wanted = loss_gradient(network, parameters, images, labels)
    loss, gradient = match_gradients(network, parameters, images, labels, wanted, distance=distance)
    epsilon = sum(
        1e-6 / float(row.norm()) ** 2 for g in wanted for row in g.flatten(1)
    )  # of the cosine's denominator
    assert float(loss) == pytest.approx(0, abs=epsilon if distance == "cosine" else 1e-13)
    if distance == "squared":
        assert float(gradient.abs().max()) < 1e-13


@each_case(("distance", "power"), [("squared", 2), ("absolute", 1), ("cosine", 0)])
def test_scale_of_both_gradients(distance: str, power: int) -> None:
    draws = generator(3)
    first, second = ([torch.randn(4, 6, generator=draws, dtype=torch.float64)] for _ in range(2))
    scaled = DISTANCES[distance]([3 * g for g in first], [3 * g for g in second])
    torch.testing.assert_close(scaled, 3.0**power * DISTANCES[distance](first, second), rtol=1e-5, atol=0)


def test_the_cosine_distance_ignores_the_length_of_either_and_the_order_of_rows() -> None:
    draws = generator(3)
    first, second = (torch.randn(5, 7, generator=draws, dtype=torch.float64) for _ in range(2))
    plain = cosine_distance([first], [second])
    assert 0 <= float(plain) <= 2 * 5
    torch.testing.assert_close(cosine_distance([4 * first], [second]), plain, rtol=1e-5, atol=0)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(cosine_distance([first[order]], [second[order]]), plain, rtol=1e-12, atol=0)


def test_biases_and_norms_and_perhaps_the_classifier_are_left_out() -> None:
    network, _ = small()
    shapes = [
        [tuple(p.shape) for p in matched_parameters(network, classifier=classifier)]
        for classifier in (False, True)
    ]
    assert shapes == [[(3, 2, 3, 3), (3, 3, 3, 3)], [(3, 2, 3, 3), (3, 3, 3, 3), (4, 12)]]


@each_case("chunk", [1, 3, 8, 99])
@each_case("soft", [False, True])
def test_pieces_of_a_batch_add_up_to_the_whole(chunk: int, soft: bool) -> None:
    network, parameters = small()
    images, labels = batch(8, seed=2)
    targets = torch.rand((8, 4), generator=generator(), dtype=torch.float64).softmax(1) if soft else labels
    pieces = chunked_gradient(network, parameters, images, targets, chunk=chunk)
    for piece, whole in zip(pieces, loss_gradient(network, parameters, images, targets), strict=True):
        torch.testing.assert_close(piece, whole, rtol=1e-12, atol=1e-14)


def test_batch_norm_sees_the_whole_batch() -> None:
    images = torch.zeros(8, 1, 8, 8)
    assert [choose_chunk_size(ConvNet(width=4, depth=1, norm=norm).build(image_shape=(1, 8, 8), num_classes=2), images, 3)
            for norm in ("instance", "batch")] == [3, 8]  # fmt: skip


def test_pieces_are_as_large_as_caches_by_default() -> None:
    """The largest outputs are those of the first block: 128 x 32 x 32 floats, half a megabyte; then 8 x 8 x 8 floats."""
    wide = ConvNet(width=128).build(image_shape=(3, 32, 32), num_classes=2)
    narrow = ConvNet(width=8, depth=1).build(image_shape=(1, 8, 8), num_classes=2).train()
    assert choose_chunk_size(wide, torch.zeros(1, 3, 32, 32)) == 8
    assert choose_chunk_size(narrow, torch.zeros(1, 1, 8, 8)) == 2048
    assert narrow.training


def test_matching_sets_no_gradients() -> None:
    network, parameters = small()
    images, labels = batch(2, seed=0)
    wanted = chunked_gradient(network, parameters, images, labels, chunk=1)
    match_gradients(network, parameters, images, labels, wanted, distance="squared")
    assert all(parameter.grad is None for parameter in network.parameters())


def descent(
    step: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], start: Tensor, num: int
) -> list[Tensor]:
    images, velocity, path = start, torch.zeros_like(start), []
    for _ in range(num):
        images, velocity = step(images, velocity, images * torch.tensor([1.0, 3.0], dtype=torch.float64))
        path.append(images)
    return path


def test_the_momentum_step_is_that_of_torch() -> None:
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    ours = descent(lambda i, v, g: momentum_step(i, v, g, lr=0.1, momentum=0.5), start, 5)
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.5)
    for images in ours:
        theirs.grad = (theirs * torch.tensor([1.0, 3.0])).detach()
        optimizer.step()
        torch.testing.assert_close(images, theirs.detach(), rtol=0, atol=1e-15)
    assert start.tolist() == [1, -2]


def test_the_momentum_step_by_hand() -> None:
    """v = 0.5 * 2 + 1 = 2, x = 3 - 0.1 * 2."""
    images, velocity = momentum_step(
        torch.tensor(3.0), torch.tensor(2.0), torch.tensor(1.0), lr=0.1, momentum=0.5
    )
    assert (float(images), float(velocity)) == (pytest.approx(2.8), 2.0)
