"""Layer densities by dynamic programming: an example by hand, a brute-force twin, reductions, and digits."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pruneyard.testing.four_layer_network import SHAPES, functional_network_at
from pruneyard.testing.trainings import accuracy_on_digits
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.masks.rate_distortion import DistortionCurve, allocate
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.one_shot import OneShot
from pruneyard.workloads.sparse.methods.rd_prune import Ranking, RDPrune, logits_at
from pruneyard.workloads.training.backward import NetworkTensors
from pruneyard.workloads.training.functional_network import FunctionalModule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import UpdateContext
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context


def test_three_layers_by_hand() -> None:
    curves = {
        "flat": DistortionCurve((1, 2, 3), (0.1, 0.05, 0.0)),
        "steep": DistortionCurve((1, 2, 3), (5.0, 1.0, 0.0)),
        "late": DistortionCurve((1, 2, 3), (3.0, 3.0, 0.0)),  # a second weight gains nothing, a third all
    }
    assert allocate(curves, 4) == {"flat": 1, "steep": 2, "late": 1}  # 0.1 + 1 + 3
    assert allocate(curves, 5) == {"flat": 1, "steep": 3, "late": 1}  # 0.1 + 0 + 3
    assert allocate(curves, 6) == {"flat": 1, "steep": 2, "late": 3}  # steep gives a weight back, as in no greedy rule


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_of_distortions_is_that_of_a_search_through_all_divisions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 7, size=4).tolist()
    curves = {
        str(place): DistortionCurve(tuple(range(1, size + 1)), (*rng.random(size - 1).tolist(), 0.0))
        for place, size in enumerate(sizes)
    }
    total = int(rng.integers(4, sum(sizes) + 1))
    found = allocate(curves, total)
    divisions = (d for d in itertools.product(*(range(1, size + 1) for size in sizes)) if sum(d) == total)
    least = min(sum(curves[str(place)].distortion[count - 1] for place, count in enumerate(d)) for d in divisions)
    assert sum(found.values()) == total
    assert sum(curves[name].distortion[count - 1] for name, count in found.items()) == pytest.approx(least)


@pytest.mark.parametrize("scale", [1, 7, 1000])  # at 1000 a unit is 120 weights
def test_curves_that_are_equal_per_weight_give_uniform_densities(scale: int) -> None:
    sizes = {"small": 40 * scale, "middle": 80 * scale, "large": 120 * scale}
    curves = {}
    for name, size in sizes.items():
        kept = np.unique(np.linspace(1, size, 41).round().astype(int))
        curves[name] = DistortionCurve(tuple(kept.tolist()), tuple((size * (1 - kept / size) ** 2).tolist()))
    found = allocate(curves, 120 * scale)
    assert sum(found.values()) == 120 * scale
    for name, size in sizes.items():
        assert found[name] / size == pytest.approx(0.5, abs=1 / 40)  # between two points of a curve all divisions are equal


def test_a_layer_whose_pruning_changes_nothing_keeps_one_weight() -> None:
    curves = {"needed": DistortionCurve((1, 100), (1.0, 0.0)), "idle": DistortionCurve((1, 100), (0.0, 0.0))}
    assert allocate(curves, 60) == {"needed": 59, "idle": 1}


@pytest.mark.parametrize("total", [4, 4001, 123_457, 999_999, 1_200_000])
def test_a_large_budget_is_met_exactly_and_no_layer_is_empty_or_too_full(total: int) -> None:
    sizes = {"a": 3, "b": 700_000, "c": 499_000, "d": 997}
    curves = {name: DistortionCurve((1, 2, size), (2.0, 1.5, 0.0)) for name, size in sizes.items()}
    found = allocate(curves, min(total, sum(sizes.values())))
    assert sum(found.values()) == min(total, sum(sizes.values()))
    assert all(1 <= found[name] <= size for name, size in sizes.items())


def context_of(weights: dict[str, torch.Tensor]) -> UpdateContext:
    generator = torch.Generator().manual_seed(0)
    network = functional_network_at(weights)
    return UpdateContext(step=0, num_steps=1, weights=weights, gradients={}, generator=generator, network=network)


def test_a_curve_is_the_squared_difference_of_the_logits_with_one_layer_pruned() -> None:
    rng = torch.Generator().manual_seed(1)
    context = context_of({name: torch.randn(shape, generator=rng) for name, shape in SHAPES.items()})
    method = RDPrune(density=0.3, levels=3, samples_per_class=3)  # all thirty rows
    orders = {name: Ranking(name, weight, context.generator) for name, weight in context.weights.items()}
    curve = method.curves(orders, context)["head.weight"]
    assert curve.kept == (1, round(320 / 9), round(320 * 4 / 9), 320)
    images, _ = context.network.rows(3, context.generator)
    head = context.weights["head.weight"]
    threshold = head.abs().flatten().sort(descending=True).values[curve.kept[1] - 1]
    pruned = logits_at(context.network, {"head.weight": torch.where(head.abs() >= threshold, head, 0.0)}, images)
    expected = (pruned - logits_at(context.network, {}, images)).square().mean()
    assert curve.distortion[1] == pytest.approx(float(expected), rel=1e-6)  # float32 summed in another order of rows


@pytest.mark.slow
def test_the_distortions_of_layers_sum_to_most_of_that_of_all_layers_together() -> None:
    data = Digits().load()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        recipe = Recipe(budget=Budget(epochs=10, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9))
        *_, last = train(recipe, model=Mlp(), method=Dense(), data=data, seed=0, context=context)
    assert last.outcome is not None
    network = Mlp().build(image_shape=data.image_shape, num_classes=10)
    network.load_state_dict(last.outcome.weights)
    split = DeviceSplit(data.train, mean=data.mean, std=data.std, device=torch.device("cpu"))
    functional = FunctionalModule(
        network=network,
        network_tensors=NetworkTensors.of(network),
        split=split,
        count_flops=lambda flops: None,
        forward_flops_per_row=0.0,
    )
    generator = torch.Generator().manual_seed(0)
    weights = {name: weight.detach() for name, weight in prunable_weights(network).items()}
    update = UpdateContext(step=0, num_steps=1, weights=weights, gradients={}, generator=generator, network=functional)
    orders = {name: Ranking(name, weight, generator) for name, weight in weights.items()}
    curves = RDPrune(density=0.1).curves(orders, update)
    images, _ = functional.rows(100, generator)
    original, ratios = logits_at(functional, {}, images), []
    for density in (0.5, 0.2, 0.1, 0.05):
        counts = allocate(curves, round(density * sum(weight.numel() for weight in weights.values())))
        pruned = {name: weights[name] * orders[name].mask(count) for name, count in counts.items()}
        alone = [logits_at(functional, {name: weight}, images) for name, weight in pruned.items()]
        together = logits_at(functional, pruned, images)
        ratios.append(sum(float((x - original).square().mean()) for x in alone) / float((together - original).square().mean()))
    assert all(0.5 < ratio < 1.5 for ratio in ratios), ratios


@pytest.mark.slow
def test_measured_densities_lose_less_accuracy_than_uniform_ones_and_erk_before_retraining() -> None:
    measured = accuracy_on_digits(RDPrune(density=0.1, prune_at=1.0), epochs=10)
    for rule in ("uniform", "erk"):
        shared = OneShot(density=0.1, prune_at=1.0, ranking="layer", distribution=rule)  # type: ignore[arg-type]
        assert measured > accuracy_on_digits(shared, epochs=10), rule
