"""Patterns of masks: examples worked by hand, reductions to known methods, refusals, and small real trainings."""

import dataclasses
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.testing.cases import each_case
from pruneyard.testing.trainings import outcome, recipe_of, run
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.plugins import find
from pruneyard.workloads.sparse.methods.magnitude import Magnitude
from pruneyard.workloads.sparse.methods.nm import NM
from pruneyard.workloads.sparse.methods.one_shot import OneShot
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.pattern import LayerMove, Pattern
from pruneyard.workloads.sparse.patterns.block import Block
from pruneyard.workloads.sparse.patterns.constant_fan_in import ConstantFanIn
from pruneyard.workloads.sparse.patterns.nm import NMGroups
from pruneyard.workloads.sparse.patterns.unstructured import Unstructured
from pruneyard.workloads.sparse.update_schedule import CubicSchedule, UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Outcome

OFTEN = UpdateSchedule(every=3)


def move(weights: list[list[float]], gradients: list[list[float]], fraction: float, *, is_last: bool = False) -> LayerMove:
    """Returns a move of a layer whose active weights are those that are not zero."""
    weight = torch.tensor(weights)
    return LayerMove(
        mask=weight != 0,
        drop_scores=weight.abs(),
        grow_scores=torch.tensor(gradients).abs(),
        drop_fraction=fraction,
        count=int((weight != 0).sum()),
        layer="layer",
        is_last=is_last,
        generator=torch.Generator().manual_seed(0),
    )


def test_scores_of_another_shape_than_the_weight_are_refused() -> None:
    """They would broadcast, and all weights tie."""
    moved = move([[1.0, 0.0], [2.0, 3.0]], [[0.0, 1.0], [0.0, 0.0]], 0.5)
    with pytest.raises(ValueError, match=r"^drop scores of layer have the shape \(\); .* that of its weight, \(2, 2\)$"):
        dataclasses.replace(moved, drop_scores=moved.drop_scores.sum())
    with pytest.raises(ValueError, match=r"^grow scores of layer have the shape \(2,\);"):
        dataclasses.replace(moved, grow_scores=moved.grow_scores[0])


def places(mask: Tensor) -> list[list[int]]:
    """Returns the active columns of each row."""
    return [row.nonzero().squeeze(1).tolist() for row in mask]


def test_a_neuron_grows_back_what_it_lost_where_rigl_grows_in_the_layer() -> None:
    weights = [[0.9, 0.1, 0.0, 0.0], [0.5, 0.4, 0.0, 0.0]]  # half are dropped: 0.1 and 0.4
    gradients = [[0.0, 0.2, 0.3, 0.1], [0.0, 0.9, 0.8, 0.2]]
    given = move(weights, gradients, 0.5)
    assert places(Unstructured().drop_and_grow(given)) == [[0], [0, 1, 2]]
    assert places(ConstantFanIn().drop_and_grow(given)) == [[0, 2], [0, 1]]


def test_a_neuron_may_lose_all_inputs_and_grows_new_ones() -> None:
    given = move([[0.1, 0.2, 0.0, 0.0], [0.5, 0.4, 0.0, 0.0]], [[0.0, 0.0, 0.3, 0.1], [0.0, 0.0, 0.9, 0.8]], 0.5)
    assert places(ConstantFanIn().drop_and_grow(given)) == [[2, 3], [0, 1]]


def test_neurons_without_salient_weights_are_ablated_and_the_others_share_their_weights() -> None:
    weights = [[0.9, 0.8, 0.0, 0.0], [0.7, 0.6, 0.0, 0.0], [0.1, 0.1, 0.0, 0.0]]
    gradients = [[0.0, 0.0, 0.9, 0.1], [0.0, 0.0, 0.2, 0.8], [0.0, 0.0, 0.1, 0.1]]
    given = move(weights, gradients, 0.34)  # two of six move; salient are 3, 3 and 0 weights
    assert places(ConstantFanIn(min_salient=0.5).drop_and_grow(given)) == [[0, 1, 2], [0, 1, 3], []]
    assert places(ConstantFanIn().drop_and_grow(given)) == [[0, 1], [0, 1], [2, 3]]


def test_an_ablated_neuron_returns_once_its_gradients_are_large() -> None:
    weights = [[0.9, 0.8, 0.1, 0.0], [0.7, 0.6, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]]
    gradients = [[0.0, 0.0, 0.0, 0.1], [0.0, 0.0, 0.0, 0.1], [0.9, 0.8, 0.2, 0.1]]
    moved = ConstantFanIn(min_salient=0.5).drop_and_grow(move(weights, gradients, 0.34))
    assert places(moved) == [[0, 1], [0, 1], [0, 1]]


def test_the_outputs_of_the_last_layer_all_stay() -> None:
    weights, gradients = [[0.9, 0.8, 0.0], [0.7, 0.6, 0.0], [0.1, 0.1, 0.0]], [[0.0, 0.0, 0.9]] * 2 + [[0.0, 0.0, 0.1]]
    ablating = ConstantFanIn(min_salient=1.0)
    assert min(map(len, places(ablating.drop_and_grow(move(weights, gradients, 0.34, is_last=True))))) == 2
    assert min(map(len, places(ablating.drop_and_grow(move(weights, gradients, 0.34))))) == 0


def test_ablation_leaves_the_neurons_that_can_hold_the_weights() -> None:
    weights = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    weights[:, 3] = 0  # 18 of 24 weights are active: five neurons of four inputs can hold them
    given = move(weights.tolist(), torch.rand(6, 4).tolist(), 0.1)
    after = places(ConstantFanIn(min_salient=1.0).drop_and_grow(given))
    assert sum(bool(row) for row in after) >= 5
    assert len({len(row) for row in after if row}) == 1


def test_blocks_move_by_the_sums_of_their_scores() -> None:
    weights = [[0.9, 0.0, 0.4, 0.4, 0.0, 0.0], [0.0, 0.1, 0.4, 0.4, 0.0, 0.0]]
    gradients = [[0.0, 0.0, 0.0, 0.0, 0.3, 0.3], [0.0, 0.0, 0.0, 0.0, 0.3, 0.3]]
    given = dataclasses.replace(move(weights, gradients, 0.5), mask=torch.tensor([[True] * 4 + [False] * 2] * 2))
    assert places(Block(shape=(2, 2)).drop_and_grow(given)) == [[2, 3, 4, 5]] * 2  # sums 1.0 and 1.6; 1.2 is grown


def test_gradual_pruning_goes_through_n_of_m_in_whole_steps() -> None:
    pattern, weight = NMGroups(n=2, m=4), torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    mask, kept = torch.ones(6, 8, dtype=torch.bool), []
    for count in (46, 40, 36, 30, 24):
        found = pattern.keep_largest(
            {"a": weight.abs()}, {"a": mask}, scope="layer", counts={"a": count}, generator=torch.Generator()
        )["a"]
        assert not (found & ~mask).any()
        mask = found
        kept.append(int(mask.sum()) // 12)
    assert kept == [4, 4, 3, 3, 2]
    assert torch.equal(mask, NM(n=2, m=4).choose_masks(weight))


def test_blocks_of_one_weight_train_as_no_pattern_bit_for_bit() -> None:
    method = RigL(density=0.2, schedule=OFTEN)
    assert_same(method, dataclasses.replace(method, pattern=Block(shape=(1, 1))))


@each_case("scope", ["layer", "global"])
def test_blocks_of_one_weight_are_pruned_as_no_pattern_bit_for_bit(scope: Any) -> None:
    method = Magnitude(density=0.2, schedule=CubicSchedule(every=3), scope=scope)
    assert_same(method, dataclasses.replace(method, pattern=Block(shape=(1, 1))))


@each_case("method", [RigL, SET])
def test_groups_of_all_inputs_train_as_constant_fan_in_bit_for_bit(method: type[SET]) -> None:
    inputs = method(density=0.25, schedule=OFTEN, keep_dense=("4",), pattern=NMGroups(n=16, m=64))
    assert_same(inputs, dataclasses.replace(inputs, pattern=ConstantFanIn()))


@each_case("pattern", [ConstantFanIn(), ConstantFanIn(min_salient=1e-9)])
def test_with_one_neuron_a_layer_constant_fan_in_is_rigl(pattern: Pattern) -> None:
    weights, gradients = torch.randn(2, 1, 50, generator=torch.Generator().manual_seed(0))
    active = Unstructured().random_mask((1, 50), 20, generator=torch.Generator().manual_seed(1))
    given = move((weights * active).tolist(), gradients.tolist(), 0.3)
    assert torch.equal(pattern.drop_and_grow(given), Unstructured().drop_and_grow(given))


def test_ablation_that_finds_salient_weights_everywhere_changes_nothing() -> None:
    weights, gradients = torch.randn(2, 8, 50, generator=torch.Generator().manual_seed(0))
    active = ConstantFanIn().random_mask((8, 50), 160, generator=torch.Generator().manual_seed(1))
    given = move((weights * active).tolist(), gradients.tolist(), 0.3)
    assert torch.equal(ConstantFanIn(min_salient=0.01).drop_and_grow(given), ConstantFanIn().drop_and_grow(given))


def trained(method: MaskUpdater) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return outcome(run(method, Path(folder), recipe_of()))


def assert_same(one: MaskUpdater, other: MaskUpdater) -> None:
    first, second = trained(one), trained(other)
    assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())
    assert all(torch.equal(weight, second.weights[name]) for name, weight in first.weights.items())


@each_case(
    ("method", "pattern"),
    [("rigl", ConstantFanIn()), ("rigl", Block(shape=(2, 4))), ("set", ConstantFanIn()), ("static", ConstantFanIn())],
)
def test_layers_that_are_stored_sparse_have_the_masks_of_masked_ones(method: str, pattern: Pattern) -> None:
    results = []
    executions: tuple[Execution, ...] = ("masked", "sparse")
    for execution in executions:
        built = find("sparse.methods", method)(density=0.2, pattern=pattern)
        if method != "static":
            built = dataclasses.replace(built, schedule=UpdateSchedule(every=4))
        with tempfile.TemporaryDirectory() as folder:
            *_, last = train(
                Recipe(budget=Budget(steps=20, batch_size=32, evaluate_every=0, checkpoint_every_s=1e9)),
                model=Mlp(width=32, depth=2),
                method=built,
                data=Digits(max_train=160, max_test=32).load(),
                seed=1,
                context=Context(checkpoints=CheckpointFolder(Path(folder))),
                execution=execution,
            )
        assert last.outcome is not None
        results.append(last.outcome)
    masked, sparse = results
    for name, mask in masked.masks.items():
        assert torch.equal(sparse.masks[name], mask), name
    for name, weight in masked.weights.items():
        torch.testing.assert_close(sparse.weights[name], weight, atol=1e-5, rtol=1e-4, msg=name)


@each_case("pattern", [Unstructured(), ConstantFanIn(), Block(shape=(2, 4))])
def test_a_weight_too_large_for_a_mask_starts_with_an_index_of_the_same_entries(pattern: Pattern) -> None:
    method = Static(density=0.2, pattern=pattern)
    states = [
        method.start({"a": torch.empty(8, 40, device=device)}, generator=torch.Generator().manual_seed(0))
        for device in ("cpu", "meta")
    ]
    assert torch.equal(states[1].indices["a"].mask(), states[0].masks["a"])


def job_of(method: dict[str, Any]) -> Any:
    table = {"name": "p", "kind": "sparse", "data": {"name": "digits"}, "model": {"name": "mlp"}, "method": method, "seeds": 1}
    (job,) = load_spec(table | {"budget": {"epochs": 1}}).jobs
    return job


def test_the_default_pattern_leaves_run_keys_as_they_were() -> None:
    for name in ("rigl", "magnitude"):
        plain = job_of({"name": name, "density": 0.1})
        assert job_of({"name": name, "density": 0.1, "pattern": "unstructured"}).key == plain.key
        assert job_of({"name": name, "density": 0.1, "pattern": "constant_fan_in"}).key != plain.key


def test_layers_that_do_not_fit_are_refused_before_a_run() -> None:
    job = job_of({"name": "rigl", "density": 0.1, "pattern": {"name": "block", "shape": [8, 8]}})
    with pytest.raises(ValueError, match=r"method\.pattern is {name: block, shape: \[8, 8\]}.*classifier\.weight has 10 rows"):
        job.workload.check(Digits().load())
    job = job_of({"name": "rigl", "density": 0.1, "keep_dense": ["classifier"], "pattern": {"name": "block", "shape": [8, 8]}})
    job.workload.check(Digits().load())


@each_case(
    ("cls", "settings", "message"),
    [
        (RigL, {"density": 0.1, "pattern": NMGroups()}, r"^density is 0.1; it must be 0.5"),
        (SET, {"density": 0.1, "pattern": ConstantFanIn(min_salient=0.3)}, "^pattern is .*grows by gradient"),
        (Magnitude, {"density": 0.1, "pattern": ConstantFanIn(), "scope": "global"}, "^scope is global"),
        (OneShot, {"density": 0.1, "pattern": ConstantFanIn()}, "^ranking is global; it must be layer"),
        (OneShot, {"density": 0.1, "pattern": Block(shape=(2, 2)), "ranking": "lamp"}, "^ranking is lamp; it must be layer"),
    ],
)
def test_settings_that_a_pattern_does_not_allow_are_refused(cls: type[Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**settings)


@cache
def mean_accuracy(method: MaskUpdater) -> float:
    """Returns the mean test accuracy of three seeds."""
    recipe = Recipe(budget=Budget(epochs=15, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9))
    found = []
    for seed in range(3):
        with tempfile.TemporaryDirectory() as folder:
            context = Context(checkpoints=CheckpointFolder(Path(folder)))
            *_, last = train(recipe, model=Mlp(), method=method, data=Digits().load(), seed=seed, context=context)
        found.append(next(m.value for m in last.metrics if (m.split, m.name) == ("test", "accuracy")))
    return sum(found) / len(found)


@pytest.mark.slow
def test_srigl_beats_fixed_masks_at_low_density_and_ablation_helps_it_on_digits() -> None:
    """The paper finds the same: at high sparsity, constant fan-in alone is not enough."""
    fixed = mean_accuracy(Static(density=0.02, pattern=ConstantFanIn()))
    alone = mean_accuracy(RigL(density=0.02, schedule=UpdateSchedule(every=10), pattern=ConstantFanIn()))
    ablated = mean_accuracy(RigL(density=0.02, schedule=UpdateSchedule(every=10), pattern=ConstantFanIn(min_salient=0.5)))
    assert fixed < alone < ablated


@pytest.mark.slow
def test_srigl_is_near_rigl_at_density_a_tenth_on_digits() -> None:
    rigl = RigL(density=0.1, schedule=UpdateSchedule(every=10))
    srigl = dataclasses.replace(rigl, pattern=ConstantFanIn())
    assert mean_accuracy(srigl) > mean_accuracy(rigl) - 0.03
