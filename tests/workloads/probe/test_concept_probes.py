"""Concepts, their importance and their maps: by hand, against SciPy, by brute force, and on trained networks."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.finished_runs import random_networks, subjects_of
from pruneyard.workloads.networks.features import features
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.probe.areas import area
from pruneyard.workloads.probe.concepts import (
    EXTRACTIONS,
    Bank,
    coefficient_gradient,
    fit_bank,
    gradient_times_coefficient,
    nonnegative,
    occlusion,
    removal_curves,
    stability,
    total_indices,
)
from pruneyard.workloads.probe.methods.craft import Craft, concept_maps
from pruneyard.workloads.probe.methods.holistic_concepts import HolisticConcepts, strategies_of

MLP = {"name": "mlp", "width": 24}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed), dtype=torch.float64)


@cache
def planted() -> tuple[Tensor, Tensor]:
    """Returns sparse coefficients (60, 3) and concepts (3, 12) with disjoint supports, whose factorisation is unique."""
    coefficients = rand(60, 3) * (rand(60, 3, seed=1) < 0.5)
    vectors = torch.block_diag(*(rand(1, 4, seed=2 + number) + 0.5 for number in range(3)))
    return coefficients, vectors


# extraction


def test_planted_concepts_are_found_again() -> None:
    coefficients, vectors = planted()
    bank = fit_bank(coefficients @ vectors, 3, extraction="nmf", seed=0)
    cosines = torch.nn.functional.normalize(bank.vectors) @ torch.nn.functional.normalize(vectors).T
    assert sorted(cosines.argmax(dim=1).tolist()) == [0, 1, 2]
    assert float(cosines.amax(dim=1).min()) > 0.999
    found = bank.coefficients(coefficients @ vectors)
    assert bank.error(coefficients @ vectors, found) < 1e-4
    assert stability(coefficients @ vectors, 3, extraction="nmf", seed=0) > 0.99


def test_components_have_the_smallest_error_of_all_and_clusters_one_coefficient_each() -> None:
    """No bank of three vectors and a centre reconstructs better than principal components (Eckart and Young)."""
    activations = rand(60, 12, seed=9)
    banks = {name: fit_bank(activations, 3, extraction=name, seed=0) for name in EXTRACTIONS}
    errors = {name: bank.error(activations, bank.coefficients(activations)) for name, bank in banks.items()}
    assert errors["pca"] == min(errors.values())
    centred = activations - activations.mean(dim=0)
    values = torch.linalg.svdvals(centred).square()
    assert errors["pca"] == pytest.approx(float(values[3:].sum() / values.sum()))
    clusters = banks["kmeans"].coefficients(activations)
    assert torch.equal(clusters.sum(dim=1), torch.ones(60, dtype=torch.float64))
    with pytest.raises(ValueError, match="negative, which nmf cannot factorise"):
        fit_bank(centred, 3, extraction="nmf", seed=0)


def test_as_many_components_as_dimensions_reconstruct_everything() -> None:
    """The limit: concepts are another basis, and error is 0."""
    activations = rand(40, 5, seed=3)
    bank = fit_bank(activations, 5, extraction="pca", seed=0)
    assert bank.error(activations, bank.coefficients(activations)) == pytest.approx(0, abs=1e-12)


def test_implicit_gradients_of_coefficients_are_those_of_small_steps() -> None:
    vectors, activations = rand(4, 7, seed=1), rand(6, 7, seed=2)
    activations[0] = 3 * vectors[2]  # one concept alone
    coefficients, step = nonnegative(activations, vectors), 1e-6
    for concept in range(4):
        found = coefficient_gradient(coefficients, vectors, concept)
        for row, place in itertools.product(range(1, 6), range(7)):
            moved = activations[row : row + 1].repeat(2, 1)
            moved[0, place] -= step
            moved[1, place] += step
            low, high = nonnegative(moved, vectors)[:, concept].tolist()
            assert float(found[row, place]) == pytest.approx((high - low) / (2 * step), abs=1e-5)


# importance


def ishigami(points: Tensor) -> Tensor:
    """Returns Ishigami's function of points in [0, 1]^3, whose indices are known."""
    x = 2 * torch.pi * points - torch.pi
    return x[..., 0].sin() + 7 * x[..., 1].sin().square() + 0.1 * x[..., 2] ** 4 * x[..., 0].sin()


def test_total_indices_of_a_function_with_interactions_are_the_known_ones_and_scipys() -> None:
    found = total_indices(ishigami, torch.ones(1, 3, dtype=torch.float64), num_designs=4096, seed=0)[0]
    assert found.tolist() == pytest.approx([0.5574, 0.4424, 0.2436], abs=0.02)
    of_scipy = stats.sobol_indices(
        func=lambda x: ishigami(torch.from_numpy(x.T)).numpy()[None],
        n=4096,
        dists=[stats.uniform()] * 3,
        random_state=np.random.default_rng(0),
    )
    assert found.tolist() == pytest.approx(of_scipy.total_order.ravel().tolist(), abs=0.02)


def linear(weights: Tensor):
    return lambda variants: (variants * weights).sum(dim=-1)


def test_importances_of_a_linear_output_are_its_terms() -> None:
    """Gradient times coefficient and occlusion agree exactly; a total index is the share of the squared term."""
    coefficients, weights = rand(5, 4), rand(4, seed=1) - 0.3
    terms = coefficients * weights
    assert torch.allclose(gradient_times_coefficient(linear(weights), coefficients), terms)
    assert torch.allclose(occlusion(linear(weights), coefficients), terms)
    indices = total_indices(linear(weights), coefficients, num_designs=2048, seed=0)
    assert torch.allclose(indices, terms.square() / terms.square().sum(dim=1, keepdim=True), atol=0.02)
    assert torch.equal(total_indices(linear(0 * weights), coefficients, num_designs=8, seed=0), torch.zeros(5, 4).double())


def test_no_order_of_removal_beats_that_of_the_terms_of_a_linear_output() -> None:
    """All orders of four concepts are tried: deletion is smallest and insertion largest."""
    coefficients, weights = rand(1, 4), torch.tensor([0.5, -0.7, 1.0, 0.2], dtype=torch.float64)
    areas = {}
    for order in itertools.permutations(range(4)):
        importance = torch.zeros(1, 4, dtype=torch.float64)
        importance[0, list(order)] = torch.arange(4.0, 0, -1, dtype=torch.float64)
        areas[order] = [area(curve) for curve in removal_curves(linear(weights), coefficients, importance)]
    best = [area(curve) for curve in removal_curves(linear(weights), coefficients, coefficients * weights)]
    assert best[0] == pytest.approx(min(found[0] for found in areas.values()))
    assert best[1] == pytest.approx(max(found[1] for found in areas.values()))


def test_strategies_are_clear_clusters_or_one() -> None:
    rng = np.random.default_rng(0)
    apart = np.concatenate([rng.normal(place, 0.05, (20, 3)) for place in (0, 1, 2)])
    found = strategies_of(apart, 4)
    assert [len(set(found[start : start + 20])) for start in (0, 20, 40)] == [1, 1, 1]
    assert found.max() == 3
    assert strategies_of(rng.normal(0, 1, (60, 5)), 4).max() == 1
    assert strategies_of(apart, 1).max() == 1
    assert strategies_of(apart[:2], 4).tolist() == [1, 1]


# whole probes


def test_maps_of_a_concept_are_gradient_times_input_of_its_coefficient() -> None:
    (subject,) = subjects_of(random_networks(MLP, 1))
    network, images = subject.network(), torch.randn(3, 1, 8, 8, generator=generator())
    vectors = rand(2, 24)
    with torch.no_grad():
        own = features(network, images).double()
    gradients = coefficient_gradient(nonnegative(own, vectors), vectors, 0)
    maps, step = concept_maps(network, images, gradients), 1e-3
    for place in (0, 20, 63):
        moved = images.repeat(2, 1, 1, 1).flatten(1)
        moved[:3, place] -= step
        moved[3:, place] += step
        with torch.no_grad():
            low, high = nonnegative(features(network, moved.view(6, 1, 8, 8)).double(), vectors)[:, 0].view(2, 3)
        expected = ((high - low) / (2 * step) * images.flatten(1)[:, place]).abs()
        assert maps[:, place].tolist() == pytest.approx(expected.tolist(), rel=0.02, abs=1e-4)


def test_features_that_are_negative_are_refused_by_craft_and_taken_by_components() -> None:
    (network,) = random_networks({"name": "mlp", "depth": 0}, 1)
    for probe in (Craft(num_concepts=2), HolisticConcepts()):
        with pytest.raises(ValueError, match="negative"):
            probe.measure(subjects_of([network]), seed=0)
    found = HolisticConcepts(extraction="pca", num_concepts=30, importance="gradient_times_coefficient")
    assert found.measure(subjects_of([network]), seed=0).metrics["concepts", "concept_agreement"] > 0.9


@each_case("fields", [{"num_concepts": 1}, {"num_designs": 48}, {"num_designs": 1}])
def test_numbers_that_cannot_be_are_refused(fields: dict[str, int]) -> None:
    for table in (Craft, HolisticConcepts):
        with pytest.raises(ValueError, match=f"^{next(iter(fields))} is"):
            table(**fields)


def one_unit_for_each_class() -> FinishedNetwork:
    """Returns a network whose ten features are its logits: unit c is active where the image resembles row block c."""
    (network,) = random_networks({"name": "mlp", "width": 10, "depth": 1}, 1)
    weights = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    weights["classifier.weight"] = 4 * torch.eye(10)
    weights["classifier.bias"] = torch.zeros(10)
    return FinishedNetwork.of(network.blueprint, weights=weights, masks={})


def test_the_concept_that_decides_is_the_most_important_one() -> None:
    """Ten features are the ten logits. Of two concepts, a random order is the right one half of the time."""
    found = Craft(num_concepts=2, num_designs=64).measure(subjects_of([one_unit_for_each_class()]), seed=0).metrics
    assert found["concepts", "concept_deletion_gain"] > 0.005
    assert found["concepts", "concept_importance_top"] > 0.6
    assert found["concepts", "concept_map_gain"] > 0.1
    assert 0 <= found["concepts", "concept_error"] < 1


def test_the_bank_of_all_units_is_the_network() -> None:
    """The limit: ten nonnegative concepts of ten features reconstruct them, and no decision changes."""
    found = HolisticConcepts(num_concepts=10).measure(subjects_of([one_unit_for_each_class()]), seed=0).metrics
    assert found["concepts", "concept_error"] < 0.02
    assert found["concepts", "concept_agreement"] > 0.95
    assert found["concepts", "concept_insertion_gain"] > 0.05


def test_a_bank_of_clusters_reconstructs_by_its_nearest_vector() -> None:
    bank = Bank(extraction="kmeans", vectors=torch.eye(2).double(), centre=torch.zeros(2).double())
    coefficients = bank.coefficients(torch.tensor([[0.9, 0.2], [0.1, 3.0]]).double())
    assert coefficients.tolist() == [[1, 0], [0, 1]]
    assert bank.reconstructed(coefficients).tolist() == [[1, 0], [0, 1]]
