"""Probes of weights and of the loss around them: by hand, on random matrices with a known spectrum, and exact on small models."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.cases import each_case
from pruneyard.testing.finished_networks import finished_of
from pruneyard.testing.finished_runs import digits, random_networks, subjects_of
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.probe import connections
from pruneyard.workloads.probe.connections import between, excess, refresh
from pruneyard.workloads.probe.hessian import MeanLoss, inner, largest_eigenvalue, trace_samples
from pruneyard.workloads.probe.methods.connectivity import Connectivity
from pruneyard.workloads.probe.methods.curvature import Curvature, sharpness
from pruneyard.workloads.probe.methods.heavy_tail import HeavyTail
from pruneyard.workloads.probe.methods.mask_overlap import MaskOverlap, jaccard, jaccard_of_random
from pruneyard.workloads.probe.spectra import eigenvalues, hill_exponent, windows

MLP = {"name": "mlp", "width": 24}
CONVNET = {"name": "convnet", "width": 8, "depth": 2, "norm": "batch"}
LINEAR = {"name": "mlp", "depth": 0}


def mask(*active: int, size: int = 6) -> Tensor:
    return torch.isin(torch.arange(size), torch.tensor(active))


# mask_overlap


def test_the_overlap_of_two_masks_by_hand() -> None:
    one, other = {"a": mask(0, 1, 2), "b": mask(0)}, {"a": mask(1, 2, 3), "b": mask(0)}
    assert jaccard(one, other) == 3 / 5
    # Layer a: 3 * 3 / 6 of both on average, layer b: 1 / 6; of 8 active weights in all.
    both = 3 * 3 / 6 + 1 / 6
    assert jaccard_of_random(one, other) == pytest.approx(both / (8 - both))


def test_random_masks_overlap_as_by_chance_and_a_run_overlaps_itself_whole() -> None:
    networks = random_networks({"name": "mlp", "width": 256}, 3)
    found = MaskOverlap().measure(subjects_of([*networks, networks[0]], reads_data=False), seed=0)
    matrix = np.array([point.y for point in found.curves]).reshape(4, 4)
    assert np.array_equal(matrix, matrix.T)
    assert np.diag(matrix).tolist() == [1.0] * 4
    assert matrix[0, 3] == 1.0
    assert found.metrics["weights", "jaccard_highest"] == 1.0
    # 82,000 weights at density 0.4: the standard deviation of the share is about 0.002.
    assert matrix[0, 1] == pytest.approx(found.metrics["weights", "jaccard_chance"], abs=0.01)
    assert matrix[0, 1] == pytest.approx(0.4 * 0.4 / (0.8 - 0.16), abs=0.01)


def test_networks_of_other_shapes_are_refused() -> None:
    networks = [random_networks(model, 1)[0] for model in (MLP, CONVNET)]
    with pytest.raises(ValueError, match="run1 has other prunable weights than run0"):
        MaskOverlap().measure(subjects_of(networks, reads_data=False), seed=0)
    with pytest.raises(ValueError, match="run1 has another model"):
        Connectivity(max_samples=20).measure(subjects_of(networks), seed=0)


# connectivity


def test_the_excess_over_the_line_by_hand() -> None:
    assert excess(torch.tensor([1.0, 5.0, 3.0])).tolist() == [0.0, 3.0, 0.0]


def test_between_a_network_and_itself_there_is_no_barrier() -> None:
    (network,) = random_networks(CONVNET, 1)
    found = Connectivity(num_points=4, max_samples=50).measure(subjects_of([network, network]), seed=0)
    assert all(value == pytest.approx(0, abs=1e-6) for value in found.metrics.values())


def test_the_loss_of_a_convex_model_has_no_barrier() -> None:
    """Logistic regression: the loss is convex in the weights, so it lies below every chord."""
    found = Connectivity(max_samples=100).measure(subjects_of(random_networks(LINEAR, 2)), seed=0)
    assert found.metrics["path", "loss_barrier"] == pytest.approx(0, abs=1e-6)
    assert found.metrics["path_train", "loss_barrier"] == pytest.approx(0, abs=1e-6)


def test_a_permuted_copy_is_the_same_function_behind_a_barrier() -> None:
    """Hidden units in reverse order: equal losses at both ends, another network halfway."""
    (network,) = random_networks(MLP, 1)
    weights = {name: 3 * tensor for name, tensor in network.network.state_dict().items()}
    reverse = dict(weights)
    for layer in ("hidden1.weight", "hidden1.bias"):
        reverse[layer] = weights[layer].flip(0)
    reverse["hidden2.weight"] = weights["hidden2.weight"].flip(1)
    pair = [FinishedNetwork.of(network.blueprint, weights=each, masks={}) for each in (weights, reverse)]
    found = Connectivity(max_samples=100).measure(subjects_of(pair), seed=0)
    losses = [point.y for point in found.curves if point.name == "path_loss" and point.key == "test run0-run1"]
    assert len(losses) == 11
    assert losses[0] == pytest.approx(losses[-1], rel=1e-5)
    assert found.metrics["path", "loss_barrier"] == pytest.approx(max(losses) - losses[0], rel=1e-4, abs=1e-6)
    assert max(losses) != pytest.approx(losses[0], rel=1e-3) or min(losses) != pytest.approx(losses[0], rel=1e-3)


def test_norm_statistics_belong_to_the_weights_at_a_point() -> None:
    """A norm before the first nonlinearity: its mean is that of the activations over all rows."""
    one, other = (subject.network() for subject in subjects_of(random_networks(CONVNET, 2)))
    rows = subjects_of(random_networks(CONVNET, 1))[0].on_device(digits().test)
    mixed = between(one, other, 0.25)
    kept = one.state_dict()["block1.norm.running_mean"].clone()
    refresh(mixed, rows)
    activations = mixed.get_submodule("block1.conv")(rows.normalise(rows.images))
    assert torch.allclose(mixed.state_dict()["block1.norm.running_mean"], activations.mean(dim=(0, 2, 3)), atol=1e-5)
    assert not mixed.training
    assert torch.equal(one.state_dict()["block1.norm.running_mean"], kept)
    weight = "block1.conv.weight"
    expected = 0.75 * one.state_dict()[weight] + 0.25 * other.state_dict()[weight]
    assert torch.allclose(mixed.state_dict()[weight], expected)


def test_no_batch_is_smaller_than_others_in_norm_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    (network,) = (subject.network() for subject in subjects_of(random_networks(CONVNET, 1)))
    rows = subjects_of(random_networks(CONVNET, 1))[0].on_device(digits().test)
    assert len(rows) % 2 == 0
    monkeypatch.setattr(connections, "BATCH_SIZE", len(rows) - 1)
    refresh(network, rows)
    activations = network.get_submodule("block1.conv")(rows.normalise(rows.images))
    assert torch.allclose(network.state_dict()["block1.norm.running_mean"], activations.mean(dim=(0, 2, 3)), atol=1e-5)


# heavy_tail


def test_windows_cover_a_matrix_and_have_one_aspect_ratio() -> None:
    matrix = torch.arange(60.0).view(20, 3)
    assert [tuple(part.shape) for part in windows(matrix, 1.0)] == [(3, 3)] * 7
    assert set(torch.cat([part.flatten() for part in windows(matrix, 1.0)]).tolist()) == set(range(60))
    assert [tuple(part.shape) for part in windows(torch.ones(3, 20), 2.0)] == [(6, 3)] * 4
    square = windows(torch.arange(36.0).view(6, 6), 2.0)
    assert [tuple(part.shape) for part in square] == [(6, 3)] * 2
    assert set(torch.cat([part.flatten() for part in square]).tolist()) == set(range(36))


@each_case("exponent", [1.5, 2.0, 3.0])
def test_the_estimator_finds_the_exponent_of_a_power_law(exponent: float) -> None:
    """Exact for a Pareto law, whatever the share of the tail: the standard error is (a - 1) / sqrt(k)."""
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = uniform ** (-1 / (exponent - 1))
    for tail in (0.1, 0.5, 1.0):
        num = tail * len(values)
        assert hill_exponent(values, tail) == pytest.approx(exponent, abs=4 * (exponent - 1) / num**0.5)
    assert hill_exponent(7 * values, 0.5) == pytest.approx(hill_exponent(values, 0.5))


def test_the_estimator_by_hand() -> None:
    values = torch.tensor([8.0, 4.0, 2.0, 0.0])
    assert hill_exponent(values, 1.0) == pytest.approx(1 + 2 / (math.log(4) + math.log(2)))
    assert math.isnan(hill_exponent(torch.ones(5), 1.0))


def test_values_that_rounding_alone_explains_are_no_part_of_a_spectrum() -> None:
    """Twenty rows of 64 have weights, so 44 of 64 singular values are 0, in any order of the rows."""
    generator = torch.Generator().manual_seed(3)
    matrix = torch.zeros(64, 64)
    matrix[:20] = torch.randn(20, 64, generator=generator)
    mixed = torch.randn(64, 20, generator=generator, dtype=torch.float64) @ matrix[:20].double()
    for own in (matrix, matrix[torch.randperm(64, generator=generator)], mixed):
        assert int((eigenvalues(own) > 0).sum()) == 20
    assert hill_exponent(eigenvalues(matrix), 0.5) == pytest.approx(hill_exponent(eigenvalues(matrix.flip(0)), 0.5))


@each_case("index", [0.8, 1.0, 1.5])
def test_the_spectrum_of_heavy_tailed_entries_has_their_exponent(index: float) -> None:
    """Entries with P(|x| > t) ~ t^-index: the largest eigenvalues of X'X fall as their squares, with exponent 1 + index / 2.

    Only the far tail does, so two percent of the values of eight matrices are taken. Reference: Soshnikov 2004, Poisson
    Statistics for the Largest Eigenvalues of Wigner Random Matrices with Heavy Tails.
    """
    generator = torch.Generator().manual_seed(1)
    values = []
    for _ in range(8):
        uniform = torch.rand(300, 300, generator=generator, dtype=torch.float64)
        signs = torch.randint(0, 2, (300, 300), generator=generator) * 2 - 1
        values.append(eigenvalues(signs * uniform ** (-1 / index)))
    num = int(0.02 * 8 * 300)
    assert hill_exponent(torch.cat(values), 0.02) == pytest.approx(1 + index / 2, abs=3 * (index / 2) / num**0.5)


def test_whole_matrices_of_noise_depend_on_their_shape_and_submatrices_do_not() -> None:
    """The paper's point, on Gaussian matrices, whose spectrum depends on the aspect ratio alone (Marchenko and Pastur)."""
    generator = torch.Generator().manual_seed(2)
    whole, averaged = [], []
    for rows in (60, 240, 960):
        matrix = torch.randn(rows, 60, generator=generator, dtype=torch.float64)
        whole.append(hill_exponent(eigenvalues(matrix), 0.5))
        averaged.append(hill_exponent(torch.cat([eigenvalues(part) for part in windows(matrix, 1.0)]), 0.5))
    assert max(whole) > 2 * min(whole)
    assert max(averaged) < 1.2 * min(averaged)


def test_layers_that_are_too_small_are_left_out() -> None:
    (network,) = random_networks(MLP, 1)
    found = HeavyTail().measure(subjects_of([network], reads_data=False), seed=0)
    assert [point.key for point in found.curves] == ["hidden1.weight", "hidden2.weight", "classifier.weight"]
    assert len(HeavyTail(min_side=20).measure(subjects_of([network], reads_data=False), seed=0).curves) == 2
    with pytest.raises(ValueError, match="no layer is so large: hidden1"):
        HeavyTail(min_side=30).measure(subjects_of([network], reads_data=False), seed=0)


# curvature


@cache
def logistic() -> MeanLoss:
    """Logistic regression on 60 digits, with two active weights masked out of every five."""
    keep = lambda weight, generator: torch.rand(weight.shape, generator=generator) < 0.6  # noqa: E731
    network = finished_of(LINEAR, (1, 8, 8), keep, seed=3)
    (subject,) = subjects_of([network])
    return MeanLoss(network=subject.network(), rows=subject.on_device(digits().test), masks=network.masks, num_classes=10)


@cache
def exact_hessian() -> Tensor:
    """Returns the Hessian by active weights and biases from the formula: the mean of (diag(p) - pp') x xx' over rows."""
    loss = logistic()
    images = loss.rows.normalise(loss.rows.images).flatten(1)
    with torch.no_grad():
        p = loss.network(loss.rows.normalise(loss.rows.images)).softmax(dim=1)
    inputs = torch.cat((images, torch.ones(len(images), 1)), dim=1)
    parts = [torch.kron(torch.diag(row) - torch.outer(row, row), torch.outer(x, x)) for row, x in zip(p, inputs, strict=True)]
    active = torch.cat((loss.masks["classifier.weight"], torch.ones(10, 1, dtype=torch.bool)), dim=1).flatten()
    whole: Tensor = sum(parts[1:], parts[0]) / len(parts)
    return whole * active[:, None] * active


def flat(direction: list[Tensor]) -> Tensor:
    weight, bias = direction
    return torch.cat((weight, bias[:, None]), dim=1).flatten()


def test_products_with_the_hessian_of_logistic_regression_are_exact() -> None:
    loss = logistic()
    for number in range(3):
        direction = loss.random_direction(0, number, signs=False)
        assert torch.allclose(flat(loss.hessian_product(direction)), exact_hessian() @ flat(direction), atol=1e-5)


def test_trace_and_largest_eigenvalue_of_logistic_regression() -> None:
    loss = logistic()
    exact = exact_hessian().double()
    samples = trace_samples(loss, 60, seed=0)
    error = float(np.std(samples, ddof=1)) / 60**0.5
    assert np.mean(samples) == pytest.approx(float(exact.trace()), abs=4 * error)
    assert error < 0.1 * float(exact.trace())
    top = float(torch.linalg.eigvalsh(exact)[-1])
    found = [largest_eigenvalue(loss, num_iterations=num, seed=0) for num in (5, 100)]
    assert found[0] <= found[1] * (1 + 1e-5)
    assert found[1] == pytest.approx(top, rel=1e-3)


def test_random_signs_are_exact_for_a_diagonal_hessian() -> None:
    """One input alone: each class has one weight and no bias; two rows of different inputs make no cross terms."""
    directions = [logistic().random_direction(5, number, signs=True) for number in range(2)]
    for direction in directions:
        weight, bias = direction
        assert set(weight.unique().tolist()) == {-1.0, 0.0, 1.0}
        assert set(bias.unique().tolist()) == {-1.0, 1.0}
        assert torch.equal(weight == 0, ~logistic().masks["classifier.weight"])
    assert inner(directions[0], directions[0]) == float((flat(directions[0]) != 0).sum())


def test_sharpness_is_the_gradient_and_then_the_curvature() -> None:
    """For a small radius r: r |g| + r^2 g'Hg / (2 |g|^2), which is an equation of Taylor's series."""
    loss = logistic()
    gradient = loss.gradient()
    norm = inner(gradient, gradient) ** 0.5
    curvature = inner(gradient, loss.hessian_product(gradient)) / norm**2
    for radius in (0.02, 0.05):
        expected = radius * norm + radius**2 * curvature / 2
        assert sharpness(loss, radius) == pytest.approx(expected, rel=0.02)


def test_a_network_with_a_norm_is_measured_in_evaluation_mode() -> None:
    """Its loss does not depend on the other rows of a batch: the mean over two halves is the loss of the whole."""
    (subject,) = subjects_of(random_networks(CONVNET, 1))
    halves = [subject.on_device(digits().test.take(np.arange(len(digits().test))[start::2])) for start in (0, 1)]
    whole = subject.on_device(digits().test)

    def trace(rows: DeviceSplit) -> float:
        loss = MeanLoss(network=subject.network(), rows=rows, masks=subject.finished.masks, num_classes=10)
        return float(np.mean(trace_samples(loss, 3, seed=0)))

    assert trace(whole) == pytest.approx((trace(halves[0]) + trace(halves[1])) / 2, rel=1e-3)


def test_more_samples_have_a_smaller_standard_error() -> None:
    (network,) = random_networks(MLP, 1)
    few, many = (
        replace(Curvature(max_samples=60, num_iterations=1), num_samples=num).measure(subjects_of([network]), seed=0).metrics
        for num in (4, 40)
    )
    assert many["curvature", "hessian_trace_se"] < few["curvature", "hessian_trace_se"]
    assert isinstance(network.network, nn.Module)
