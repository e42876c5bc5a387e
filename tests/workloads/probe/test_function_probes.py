"""Probes of what networks compute: functions, information, complexity and attributions; by hand and on planted data."""

import math
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.finished_runs import SOURCE, digits, finished_run, random_networks, subjects_of
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.data.sources.block_digits import BlockDigits, empty_block
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.networks.functions import (
    KnownFunctions,
    fixed_inputs,
    function_hash,
    hash_of,
    log_probabilities,
)
from pruneyard.workloads.probe.activations import layer_inputs
from pruneyard.workloads.probe.areas import area
from pruneyard.workloads.probe.methods.attribution import Attribution
from pruneyard.workloads.probe.methods.diffroar import Diffroar
from pruneyard.workloads.probe.methods.feature_complexity import FeatureComplexity, information
from pruneyard.workloads.probe.methods.functional_hash import FunctionalHash
from pruneyard.workloads.probe.methods.information_plane import (
    compressed,
    entropy,
    entropy_of_noise,
    information_input,
    information_label,
)
from pruneyard.workloads.probe.probe import Subject
from pruneyard.workloads.probe.saliency import attribute, integrated_gradients, places_kept

MLP = {"name": "mlp", "width": 24}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# functional_hash


def permuted(network: FinishedNetwork) -> FinishedNetwork:
    """Returns the same function with its first hidden units in reverse order."""
    weights = dict(network.network.state_dict())
    for name in ("hidden1.weight", "hidden1.bias"):
        weights[name] = weights[name].flip(0)
    weights["hidden2.weight"] = weights["hidden2.weight"].flip(1)
    return FinishedNetwork.of(network.blueprint, weights=weights, masks={})


def test_permuted_and_rescaled_copies_are_found_and_other_networks_are_not() -> None:
    one, other = random_networks(MLP, 2)
    weights = dict(one.network.state_dict())
    weights["hidden1.weight"], weights["hidden1.bias"] = 4 * weights["hidden1.weight"], 4 * weights["hidden1.bias"]
    weights["hidden2.weight"] = weights["hidden2.weight"] / 4  # ReLU is homogeneous
    weights["classifier.bias"] = weights["classifier.bias"] + 7  # softmax does not see it
    rescaled = FinishedNetwork.of(one.blueprint, weights=weights, masks={})
    found = FunctionalHash().measure(subjects_of([one, other, permuted(one), rescaled], reads_data=False), seed=0)
    assert [point.y for point in found.curves] == [0, 1, 0, 0]
    assert found.metrics["function", "num_functions"] == 2
    assert found.metrics["function", "num_hashes"] == 2
    assert found.metrics["function", "duplicate_share"] == 0.5


def test_equal_hashes_of_different_functions_are_told_apart() -> None:
    """Compares equal decisions at different confidences: their hashes collide, but the functions differ."""
    logits = torch.randn(20, 3, generator=generator())
    outputs = [logits.log_softmax(dim=1), (2 * logits).log_softmax(dim=1), logits.log_softmax(dim=1) + 1e-6]
    assert len({hash_of(output) for output in outputs}) == 1
    for tolerance, expected in ((1e-3, [None, None, "0"]), (0.0, [None, None, None])):
        known = KnownFunctions(tolerance=tolerance)
        assert [known.add(str(place), output) for place, output in enumerate(outputs)] == expected


def test_a_network_that_was_never_a_run_is_known_by_its_function_in_evaluation_mode() -> None:
    """A candidate of a search: dropout off, its modes kept; a permuted twin is found, one with other weights is not."""
    one, other = (
        nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)) for _ in range(2)
    )
    twin = deepcopy(one)
    with torch.no_grad():
        for layer, axis in ((1, 0), (4, 1)):
            twin[layer].weight.copy_(one[layer].weight.flip(axis))
        twin[1].bias.copy_(one[1].bias.flip(0))
    inputs = fixed_inputs((3, 2, 2), 64)
    assert torch.equal(inputs, fixed_inputs((3, 2, 2), 64))
    assert function_hash(one, inputs) == function_hash(twin, inputs) != function_hash(other, inputs)
    assert one.training
    assert one[3].training
    known = KnownFunctions()
    found = [known.add(name, log_probabilities(net, inputs)) for name, net in (("one", one), ("other", other), ("twin", twin))]
    assert found == [None, None, "one"]


# information_plane


def test_the_entropy_of_noise_around_one_point_and_around_far_points() -> None:
    draws = torch.randn(4000, 2, generator=generator(), dtype=torch.float64)
    same = torch.zeros(4000, 2, dtype=torch.float64)
    assert entropy(same, 0.3, draws) == pytest.approx(entropy_of_noise(2, 0.3), abs=4 / 4000**0.5)
    far = 1000 * torch.arange(50, dtype=torch.float64)[:, None]
    draws = torch.randn(50, 1, generator=generator(), dtype=torch.float64)
    # Rows that never overlap tell which of the 50 it was.
    expected = math.log(50) + entropy_of_noise(1, 0.3) - (1 - float(draws.square().mean())) / 2
    assert entropy(far, 0.3, draws) == pytest.approx(expected, abs=1e-6)


def test_information_about_a_gaussian_input_is_that_of_its_channel() -> None:
    """ln(1 + 1 / s^2) / 2 for each of d independent normal components with noise of deviation s."""
    for dimensions, noise in ((1, 0.5), (2, 1.0)):
        points = torch.randn(3000, dimensions, generator=generator(1), dtype=torch.float64)
        draws = torch.randn(3000, dimensions, generator=generator(2), dtype=torch.float64)
        expected = dimensions * math.log(1 + 1 / noise**2) / 2
        assert information_input(points, noise, draws) == pytest.approx(expected, rel=0.05)


def test_information_about_a_label_is_its_entropy_or_nothing() -> None:
    labels = torch.arange(1200) % 3
    draws = torch.randn(1200, 1, generator=generator(), dtype=torch.float64)
    separated = 100 * labels[:, None].double()
    assert information_label(separated, labels, 0.3, draws) == pytest.approx(math.log(3), abs=0.02)
    unrelated = torch.randn(1200, 1, generator=generator(5), dtype=torch.float64)
    assert information_label(unrelated, labels, 0.5, draws) == pytest.approx(0, abs=0.03)


def test_components_have_a_mean_variance_of_1_and_the_largest_first() -> None:
    inputs = torch.randn(200, 5, generator=generator(), dtype=torch.float64) * torch.tensor([1.0, 5.0, 1.0, 3.0, 1.0]) + 4
    points = compressed(inputs, 2)
    assert points.square().mean() == pytest.approx(1)
    assert float(points[:, 0].var()) > float(points[:, 1].var())
    assert abs(float(torch.corrcoef(torch.stack((points[:, 0], inputs[:, 1])))[0, 1])) > 0.98


# feature_complexity


def test_information_is_all_for_linear_features_and_none_for_unrelated_ones() -> None:
    inputs = torch.randn(400, 6, generator=generator(), dtype=torch.float64)
    linear = inputs @ torch.randn(6, 2, generator=generator(1), dtype=torch.float64)
    noise = torch.randn(400, 1, generator=generator(2), dtype=torch.float64)
    square = inputs[:, :1].square()
    found = information(inputs, torch.cat((linear, noise, square), dim=1), 1e-6)
    assert found[:2].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert found[2:].tolist() == pytest.approx([0, 0], abs=0.1)


def test_a_network_without_nonlinearity_has_simple_features_only() -> None:
    """All hidden units are active on all inputs: every feature is a linear map of the layer before.

    Thirty rows are fitted, which is enough for 24 hidden units and not for 64 pixels.
    """
    (network,) = random_networks(MLP, 1)
    weights = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    for layer in ("hidden1", "hidden2"):
        weights[f"{layer}.bias"] += 1000
    linear = FinishedNetwork.of(network.blueprint, weights=weights, masks={})
    table = FeatureComplexity(ridge=1e-9)
    subjects = subjects_of([linear])
    few = replace(table, max_inputs=8)
    assert [point.key for point in few.measure(subjects, seed=0).curves if point.name == "feature_information"] == [
        "hidden1",
        "hidden2",
    ]
    by_layer = {p.key: p.y for p in table.measure(subjects, seed=0).curves if p.name == "feature_information"}
    assert by_layer["hidden2"] == pytest.approx(1, abs=1e-3)


def test_inputs_of_layers_are_those_of_the_forward_pass() -> None:
    (subject,) = subjects_of(random_networks(MLP, 1))
    rows = subject.on_device(digits().test)
    found = layer_inputs(subject.network(), rows)
    images = rows.normalise(rows.images)
    network = subject.network()
    assert list(found) == ["hidden1", "hidden2", "classifier"]
    assert torch.equal(found["hidden1"], images.flatten(1))
    assert torch.allclose(network.get_submodule("classifier")(found["classifier"]), network(images), atol=1e-5)


def test_blocks_leave_the_images_and_say_where_they_are() -> None:
    assert empty_block(3, 3, dtype=np.uint8).tolist() == [[255, 255, 255], [255, 255, 255], [255, 255, 255]]
    assert empty_block(5, 5, dtype=np.float32)[1].tolist() == [255, 255, 0, 255, 255]
    source = BlockDigits(base=SOURCE)
    data, base = source.load(), SOURCE.load()
    assert data.image_shape == (1, 16, 8)
    places = source.signal_places(data.test.images).reshape(-1, 16, 8)
    assert (places.sum(axis=(1, 2)) == 64).all()
    np.testing.assert_array_equal(data.test.images[:, 0][places].reshape(-1, 8, 8), base.test.images[:, 0])


# attribution


def test_attributions_of_a_linear_network_are_its_terms() -> None:
    """Integrated gradients add up to the change of the logit, for any network; of a linear one they are weight times input."""
    network, inputs = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(5, 3, 2, 2, generator=generator())
    classes = torch.tensor([0, 1, 2, 0, 1])
    weight = network[1].weight.detach()[classes].view(5, 3, 2, 2)
    assert torch.allclose(integrated_gradients(network, inputs, classes, num_steps=3), weight * inputs, atol=1e-6)
    found = attribute(network, inputs, classes, method="gradient", num_steps=1, generator=generator())
    assert torch.allclose(found, weight.abs().sum(dim=1).flatten(1))
    deep = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    total = integrated_gradients(deep, inputs, classes, num_steps=200).flatten(1).sum(dim=1)
    change = (deep(inputs) - deep(torch.zeros_like(inputs))).gather(1, classes[:, None])[:, 0]
    assert torch.allclose(total, change.detach(), atol=1e-3)


def test_the_largest_places_are_kept() -> None:
    attribution = torch.tensor([[0.1, 0.4, 0.4, 0.0]])
    assert places_kept(attribution, 0.25).tolist() == [[False, True, False, False]]
    assert places_kept(attribution, 0.5).tolist() == [[False, True, True, False]]
    assert not places_kept(attribution, 0.0).any()
    assert places_kept(attribution, 1.0).all()
    assert area(torch.tensor([0.0, 1.0, 1.0])) == 0.75


def planted_rows(num: int, seed: int) -> Split:
    """Returns grey images of noise whose class, 0 or 1, is the brightness of one pixel: the only one that tells it."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, 1, 4, 4)).astype(np.uint8)
    labels = np.arange(num) % 2
    images[:, 0, 1, 2] = np.where(labels, 255, 0)
    return Split.from_arrays(images, labels)


@cache
def planted() -> Dataset:
    train, test = planted_rows(400, 0), planted_rows(200, 1)
    empty = test.take(np.zeros(0, dtype=np.int64))
    return Dataset(
        name="planted", classes=("dark", "bright"), mean=(0.5,), std=(0.3,), train=train, val=empty, calib=empty, test=test
    )


def subject_on_planted(weight: Tensor) -> Subject:
    """Returns logistic regression on the planted data, whose logit of class 1 has these weights of the 16 pixels."""
    blueprint = Blueprint(model={"name": "mlp", "depth": 0}, image_shape=(1, 4, 4), num_outputs=2, mean=(0.5,), std=(0.3,))
    weights = {"classifier.weight": torch.stack((-weight, weight)), "classifier.bias": torch.zeros(2)}
    run = replace(finished_run(FinishedNetwork.of(blueprint, weights=weights, masks={})), data_fingerprint=lambda: None)
    return Subject(run=run, device=torch.device("cpu"), load_data=lambda source: planted())


def spike() -> Tensor:
    return torch.zeros(16).index_fill(0, torch.tensor([6]), 5.0)


def test_gradients_of_a_network_that_uses_the_planted_pixel_name_it() -> None:
    """One of 16 pixels decides: it alone makes the decision, and without it nothing is left of it."""
    found = Attribution(by="gradient", num_steps=16).measure([subject_on_planted(spike())], seed=0)
    deletion = [point.y for point in found.curves if point.name == "deletion"]
    insertion = [point.y for point in found.curves if point.name == "insertion"]
    assert deletion[0] == insertion[16] == pytest.approx(1, abs=1e-3)
    assert deletion[1:] == pytest.approx([0.5] * 16)
    assert insertion == pytest.approx([0.5, *[insertion[16]] * 16])
    # A random order finds it after half of the pixels on average: areas of about 31/32 and 3/4.
    assert found.metrics["attribution", "insertion_gain"] == pytest.approx(31 / 32 - 3 / 4, abs=0.05)


def test_retraining_tells_a_network_that_looks_at_the_planted_pixel_from_one_that_looks_elsewhere() -> None:
    """One of 16 pixels is kept, that of the largest gradient, or that of the smallest; only the planted one predicts."""
    table = Diffroar(shares=(1 / 16,), epochs=3)
    looks = table.measure([subject_on_planted(spike() + 0.01 * torch.arange(1, 17))], seed=0)
    assert looks.metrics["attribution", "diffroar"] > 0.3
    away = torch.arange(1.0, 17.0)
    away[6] = 0.0
    assert table.measure([subject_on_planted(away)], seed=0).metrics["attribution", "diffroar"] < -0.3


def test_the_share_of_the_signal_is_that_of_the_half_that_a_network_looks_at() -> None:
    """A network that reads the upper half of 32 places names the whole signal where it lies above, and none of it elsewhere."""
    source = BlockDigits(base=SOURCE)
    data = source.load()
    above = source.signal_places(data.test.images)[:, 0]
    weight = torch.rand(10, 128, generator=generator()) + 1
    weight[:, 64:] = 0
    weight[0] *= -1  # so that no class has a gradient of 0 everywhere
    model, mean, std = {"name": "mlp", "depth": 0}, data.mean, data.std
    blueprint = Blueprint(model=model, image_shape=(1, 16, 8), num_outputs=10, mean=mean, std=std)
    weights = {"classifier.weight": weight, "classifier.bias": torch.zeros(10)}
    run = finished_run(FinishedNetwork.of(blueprint, weights=weights, masks={}))
    run = replace(run, source=lambda: source, data_fingerprint=lambda: None)
    subject = Subject(run=run, device=torch.device("cpu"), load_data=lambda _: data)
    found = Diffroar(shares=(0.1,), epochs=1).measure([subject], seed=0)
    assert found.metrics["attribution", "signal_share"] == pytest.approx(above.mean())
    assert 0.2 < above.mean() < 0.8


def test_a_random_ranking_has_no_difference_beyond_chance() -> None:
    """Both halves hold the planted pixel equally often."""
    found = Diffroar(shares=(0.5,), epochs=3).measure([subject_on_planted(spike())], seed=0)
    assert abs(found.metrics["attribution", "diffroar_random"]) < 0.15
