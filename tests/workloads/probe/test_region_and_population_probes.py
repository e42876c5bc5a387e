"""Regions, bits of inductive bias, matched segments and correlations over populations: by hand, by brute force, and at limits."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from test_function_probes import spike, subject_on_planted
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.finished_runs import random_networks, subjects_of
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.probe.methods.connectivity import Connectivity
from pruneyard.workloads.probe.methods.inductive_bias import (
    InductiveBias,
    bits_below,
    counted_bits,
    one_hot,
    ridge_outputs,
    squared_error,
)
from pruneyard.workloads.probe.methods.lima import Lima
from pruneyard.workloads.probe.methods.robust_explain import RobustExplain, correlations
from pruneyard.workloads.probe.regions import first_regions, greedy_order, grid_regions, set_score

MLP = {"name": "mlp", "width": 24}
CONVNET = {"name": "convnet", "width": 8, "depth": 2, "norm": "batch"}
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# regions and lima


def test_regions_are_parts_of_a_grid() -> None:
    assert grid_regions((3, 4, 4), 2).view(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert grid_regions((5,), 2).tolist() == [0, 0, 0, 1, 1]
    assert grid_regions((1, 28, 28), 7).bincount().tolist() == [16] * 49
    with pytest.raises(ValueError, match=r"side is 9; the inputs have the shape \(1, 8, 8\), so it must be 8 or less"):
        grid_regions((1, 8, 8), 9)


def additive(values: Tensor):
    """Returns a modular score of sets: the sum of the values (B, R) of its regions."""
    return lambda chosen: (chosen * values[:, None, :]).sum(dim=2)


@each_case("regions", [2, 5, 8])
def test_both_searches_sort_a_modular_score_and_one_scores_half_as_many_sets(regions: int) -> None:
    values = torch.rand(6, regions, generator=generator())
    expected = values.argsort(dim=1, descending=True)
    counts = {}
    for search in ("greedy", "bidirectional"):
        order, counts[search] = greedy_order(additive(values), 6, regions, search=search, device=CPU)
        assert torch.equal(order, expected)
    assert counts["greedy"] == regions * (regions + 1) // 2
    assert counts["bidirectional"] == sum(range(regions, 0, -2))


def test_greedy_sets_of_a_submodular_score_are_within_the_bound_of_the_best_ones() -> None:
    """Coverage: each region covers items. Greedy reaches 1 - 1/e of the best set of its size (Nemhauser et al. 1978)."""
    covers = torch.rand(1, 7, 20, generator=generator(3)) < 0.25

    def coverage(chosen: Tensor) -> Tensor:
        return (chosen[..., None] & covers[:, None]).any(dim=2).sum(dim=2).float()

    order, _ = greedy_order(coverage, 1, 7, search="greedy", device=CPU)
    for size in range(1, 8):
        sets = [sum(torch.eye(7, dtype=torch.bool)[list(each)]).bool() for each in itertools.combinations(range(7), size)]
        best = float(coverage(torch.stack(sets)[None]).max())
        assert float(coverage(first_regions(order, size)[:, None])) >= (1 - 1 / math.e) * best


def test_the_score_of_a_set_says_whether_it_suffices_and_is_needed() -> None:
    (subject,) = [subject_on_planted(spike())]
    rows = subject.on_device(subject.split("test", 6))
    ((inputs, labels),) = rows.batches(6)
    regions = grid_regions((1, 4, 4), 4)
    score = set_score(subject.network(), inputs, labels, regions, num_classes=2)
    chosen = torch.stack((regions == 6, regions != 6, regions >= 0)).expand(6, 3, 16)
    # The planted place alone decides: without it both classes have the probability one half.
    assert score(chosen).tolist() == [pytest.approx([1.5, 0.5, 1.5], abs=1e-3)] * 6


def test_lima_names_the_planted_region_first() -> None:
    """One of 16 places decides: insertion rises at once, deletion falls at once. A random order finds it halfway on average."""
    found = Lima(side=4).measure([subject_on_planted(spike())], seed=0)
    assert found.metrics["regions", "insertion"] == pytest.approx(31 / 32 + 0.5 / 32, abs=2e-3)
    assert found.metrics["regions", "deletion"] == pytest.approx(0.5 + 0.5 / 32, abs=2e-3)
    assert found.metrics["regions", "insertion_gain"] == pytest.approx(31 / 32 + 0.5 / 32 - 0.75, abs=0.06)
    assert found.metrics["regions@gradient", "insertion"] == pytest.approx(found.metrics["regions", "insertion"])
    assert found.metrics["regions", "scored_sets"] == sum(range(16, 0, -2))
    assert ("regions", "error_confidence") not in found.metrics


def test_errors_are_explained_for_their_label() -> None:
    """A network that reads the planted place the wrong way round is wrong everywhere: no set of regions makes it right."""
    found = Lima(side=4, max_samples=20).measure([subject_on_planted(-spike())], seed=0)
    assert found.metrics["regions", "error_confidence"] == pytest.approx(0.5, abs=1e-3)


def test_searches_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="search is 'lazy'; it must be bidirectional or greedy"):
        Lima(search="lazy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="side is 1"):
        Lima(side=1)


# inductive_bias


def test_bits_of_a_log_normal_loss_are_those_of_its_distribution() -> None:
    losses = np.exp(np.random.default_rng(0).normal(1.0, 0.5, 4000))
    for place in (-3.0, -1.0, 0.0, 2.0):
        expected = -math.log2(stats.norm.cdf(place))
        found, error = bits_below(losses, math.exp(1.0 + 0.5 * place))
        assert found == pytest.approx(expected, abs=4 * error)
    assert bits_below(losses, 1e9)[0] == pytest.approx(0, abs=1e-9)
    assert bits_below(np.array([2.0, 2.0]), 2.0) == (0.0, 0.0)
    assert bits_below(np.array([2.0, 2.0]), 1.0) == (math.inf, math.inf)


def test_the_standard_error_of_the_bits_is_their_spread_over_samples() -> None:
    rng = np.random.default_rng(1)
    found = [bits_below(np.exp(rng.normal(0, 1, 60)), math.exp(-2.5)) for _ in range(400)]
    spread, claimed = np.std([bits for bits, _ in found]), np.mean([error for _, error in found])
    assert claimed == pytest.approx(spread, rel=0.15)


def test_counted_bits_by_hand() -> None:
    losses = np.array([1.0, 2.0, 3.0])
    assert counted_bits(losses, 0.5) == 2.0  # none of three: at most log2 of four
    assert counted_bits(losses, 1.0) == 1.0
    assert counted_bits(losses, 3.0) == 0.0


def test_ridge_without_penalty_fits_a_linear_task_exactly() -> None:
    inputs = torch.randn(40, 5, generator=generator(), dtype=torch.float64)
    weights = torch.randn(5, 3, generator=generator(1), dtype=torch.float64)
    outputs = ridge_outputs(inputs[:30], inputs[:30] @ weights + 2, inputs[30:], ridge=1e-12)
    assert float(squared_error(outputs, inputs[30:] @ weights + 2)) < 1e-15
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_fewer_bits_are_needed_for_a_worse_loss() -> None:
    (subject,) = subjects_of(random_networks(CONVNET, 1))
    table = InductiveBias(num_hypotheses=8, max_samples=60)
    found = [replace(table, target_loss=loss).measure([subject], seed=0).metrics for loss in (0.3, 0.6, 50.0)]
    bits = [metrics["model", "inductive_bias"] for metrics in found]
    assert bits[0] > bits[1] > bits[2]
    assert bits[2] == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="target_loss is 0"):
        InductiveBias(target_loss=0.0)


# connectivity with matching


def test_a_permuted_copy_has_no_barrier_after_matching() -> None:
    (network,) = random_networks(MLP, 1)
    weights = {name: 3 * tensor for name, tensor in network.network.state_dict().items()}
    order = torch.randperm(24, generator=generator())
    moved = dict(weights)
    for layer in ("hidden1.weight", "hidden1.bias"):
        moved[layer] = weights[layer][order]
    moved["hidden2.weight"] = weights["hidden2.weight"][:, order]
    pair = [FinishedNetwork.of(network.blueprint, weights=each, masks={}) for each in (weights, moved)]
    found = Connectivity(max_samples=60, num_points=5, matching=True).measure(subjects_of(pair), seed=0).metrics
    assert max(found["path", "loss_barrier"], found["path", "accuracy_barrier"]) > 1e-3
    for name in ("loss_barrier", "accuracy_barrier"):
        assert found["path_matched", name] == pytest.approx(0, abs=1e-5)
        assert found["path_matched_train", name] == pytest.approx(0, abs=1e-5)


def test_matching_changes_no_end_and_no_other_number() -> None:
    pair = random_networks(CONVNET, 2)
    table = Connectivity(max_samples=60, num_points=3)
    plain = table.measure(subjects_of(pair), seed=0)
    both = replace(table, matching=True).measure(subjects_of(pair), seed=0)
    assert {key: value for key, value in both.metrics.items() if "matched" not in key[0]} == plain.metrics
    ends = {
        key: [point.y for point in both.curves if point.name == "path_loss" and point.key == f"{key} run0-run1"]
        for key in ("test", "test-matched")
    }
    for place in (0, -1):
        assert ends["test"][place] == pytest.approx(ends["test-matched"][place], rel=1e-4)


# robust_explain


def test_correlations_are_those_of_ranks_and_left_out_where_nothing_varies() -> None:
    by_name = {
        "accuracy": np.array([0.1, 0.2, 0.3, 0.4]),
        "shifted_accuracy": np.array([1.0, 3.0, 2.0, 4.0]),
        "insertion_gain": np.array([4.0, 3.0, 2.0, 1.0]),
        "mean_confidence": np.full(4, 0.5),
        "insertion": np.array([1.0, 2.0, 3.0, 4.0]),
        "deletion": np.array([1.0, 2.0, 3.0, 4.0]),
    }
    assert correlations(by_name) == {
        "accuracy_shifted": pytest.approx(0.8),
        "accuracy_explained": pytest.approx(-1.0),
        "shifted_explained": pytest.approx(-0.8),
    }


def test_criteria_of_a_population_are_those_of_its_probes() -> None:
    """Networks that look ever more at the planted pixel are more accurate, and attributions name that pixel better."""
    away = torch.arange(16.0).index_fill(0, torch.tensor([6]), 0.0) / 10
    population = [subject_on_planted(strength * spike() + away) for strength in (0.0, 0.2, 1.0, 2.0)]
    table = RobustExplain(by="gradient", corruptions=("gaussian_noise",), severities=(3,), max_samples=None)
    found = table.measure(population, seed=0).metrics
    single = [
        table._attribution().measure([subject], seed=0).metrics["attribution", "insertion_gain"] for subject in population
    ]
    assert found["population", "insertion_gain"] == pytest.approx(np.mean(single))
    assert found["population", "rank_accuracy_shifted"] > 0.7
    assert found["population", "rank_chance"] == pytest.approx(math.tanh(1.959964))
    with pytest.raises(ValueError, match="severities"):
        RobustExplain(severities=(7,))
