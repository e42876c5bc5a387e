"""Perturbed networks: which weights change, how far, and with what distribution."""

import pytest
import torch
from distilling import generator
from scipy import stats
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill.perturbation import Perturbation, direction


def network() -> dict[str, Tensor]:
    draws = generator(9)
    shapes = {
        "conv.weight": (6, 3, 3, 3),
        "conv.bias": (6,),
        "norm.weight": (6,),
        "classifier.weight": (4, 24),
    }
    weights = {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}
    weights["conv.weight"][2] = 0
    return weights


def test_directions_are_as_long_as_the_filters() -> None:
    for name in ("conv.weight", "classifier.weight"):
        weight = network()[name]
        found = direction(weight, generator())
        torch.testing.assert_close(
            found.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1), rtol=1e-5, atol=0
        )


def test_one_direction_moves_every_filter_by_its_share() -> None:
    weights, perturbation = network(), Perturbation(directions=1)
    (magnitude,) = perturbation.magnitudes(generator(4))
    moved = perturbation(weights, generator(4))
    for name in ("conv.weight", "classifier.weight"):
        lengths = (moved[name] - weights[name]).flatten(1).norm(dim=1)
        torch.testing.assert_close(
            lengths, abs(magnitude) * weights[name].flatten(1).norm(dim=1), rtol=1e-4, atol=1e-7
        )


def test_two_directions_are_independent() -> None:
    """Lengths add by the law of cosines, with the cosine between the two draws."""
    weights = network()
    draws = generator(4)
    a, b = Perturbation().magnitudes(draws)
    first = {name: direction(weights[name], draws) for name in ("conv.weight", "classifier.weight")}
    second = {name: direction(weights[name], draws) for name in ("conv.weight", "classifier.weight")}
    moved = Perturbation()(weights, generator(4))
    for name in first:
        torch.testing.assert_close(moved[name], weights[name] + a * first[name] + b * second[name])
        assert not torch.allclose(first[name], second[name])


def test_biases_norms_and_filters_of_zeros_stay() -> None:
    weights = network()
    moved = Perturbation()(weights, generator())
    assert torch.equal(moved["conv.bias"], weights["conv.bias"])
    assert torch.equal(moved["norm.weight"], weights["norm.weight"])
    assert not moved["conv.weight"][2].any()
    assert (moved["conv.weight"][[0, 1, 3, 4, 5]] != weights["conv.weight"][[0, 1, 3, 4, 5]]).all()


def test_a_longer_filter_moves_as_much_further() -> None:
    weights = network()
    longer = {name: 8 * tensor for name, tensor in weights.items()}
    for name, tensor in Perturbation()(longer, generator()).items():
        assert torch.equal(tensor, 8 * Perturbation()(weights, generator())[name])


@pytest.mark.parametrize("nothing", [Perturbation(directions=0), Perturbation(min_magnitude=0, max_magnitude=0)])
def test_no_perturbation_hands_the_network_through(nothing: Perturbation) -> None:
    weights = network()
    assert all(tensor is weights[name] for name, tensor in nothing(weights, generator()).items())


def test_no_argument_is_modified() -> None:
    weights, before = network(), network()
    Perturbation()(weights, generator())
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())


def test_magnitudes_are_uniform_and_signs_fair_and_independent() -> None:
    """Chi-square over 10,000 draws of one seed; a fair generator fails one seed in a thousand."""
    draws = generator(0)
    pairs = torch.tensor([Perturbation().magnitudes(draws) for _ in range(10_000)], dtype=torch.float64)
    assert float(pairs.abs().min()) >= 0.01 - 1e-8
    assert float(pairs.abs().max()) <= 0.09 + 1e-8
    for column in pairs.abs().T:
        counts = torch.histc(column, bins=8, min=0.01, max=0.09)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    quadrants = torch.bincount((pairs[:, 0] > 0).long() * 2 + (pairs[:, 1] > 0).long(), minlength=4)
    assert stats.chisquare(quadrants.numpy()).pvalue > 1e-3


@each_case(
    ("fields", "name"),
    [
        ({"directions": -1}, "directions"),
        ({"min_magnitude": 0.1, "max_magnitude": 0.05}, "min_magnitude"),
        ({"min_magnitude": -1}, "min_magnitude"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is"):
        Perturbation(**fields)  # type: ignore[arg-type]
