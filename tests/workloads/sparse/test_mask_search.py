"""Mask search on frozen weights: examples by hand, gradients against autograd, limits that are known methods, and digits."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pruneyard.testing.trainings import checkpoint_at, network_of, outcome, recipe_of, run
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.lottery_jackpots import LotteryJackpots, swapped
from pruneyard.workloads.sparse.methods.maskllm import MaskLLM
from pruneyard.workloads.sparse.methods.nm import NM
from pruneyard.workloads.sparse.methods.one_shot import OneShot
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.training.initial_weights import InitialWeights
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

NOTHING_LEARNED = 1e-12  # a learning rate


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, [0, 0, 1, 1, 0]), (0.5, [0, 1, 1, 0, 0]), (0.01, [0, 1, 1, 0, 0]), (0.0, [1, 1, 0, 0, 0])]
)
def test_the_most_demanded_swaps_are_made_first(share: float, expected: list[int]) -> None:
    mask, score = torch.tensor([1, 1, 0, 0, 0]).bool(), torch.tensor([0.1, 0.5, 0.9, 0.7, 0.2])
    found = swapped(mask, score, share=share, generator=generator(), layer="w")
    assert found.int().tolist() == expected


def test_a_score_rises_where_a_larger_mask_would_lower_the_loss() -> None:
    method = LotteryJackpots(density=0.5, momentum=0.5)
    own = {"score": torch.tensor([1.0, 0.99]), "velocity": torch.tensor([0.0, 0.2])}
    context: Any = type("At", (), {"step": 0, "num_steps": 10, "generator": generator()})
    state: Any = type("State", (), {"forward": {"w": torch.tensor([True, False])}})
    mask, after = method.search(own, torch.tensor([0.3, -0.4]), lr=0.1, name="w", state=state, context=context)
    torch.testing.assert_close(after["velocity"], torch.tensor([0.3, -0.3]))  # 0.5 times the last one, plus the gradient
    torch.testing.assert_close(after["score"], torch.tensor([0.97, 1.02]))
    assert mask.tolist() == [False, True]


def test_a_group_has_a_gate_for_every_pattern() -> None:
    assert MaskLLM().patterns(torch.zeros(())).tolist() == [
        [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]
    ]  # fmt: skip
    assert len(MaskLLM(n=3, m=8).patterns(torch.zeros(()))) == 56


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8)])
def test_gates_have_the_gradient_of_the_expected_pattern_of_the_sample(n: int, m: int) -> None:
    method, progress, rng = MaskLLM(n=n, m=m, temperature=(2.0, 1.0), scale=(3.0, 5.0)), 0.5, generator()
    patterns = method.patterns(torch.zeros((), dtype=torch.float64))
    gate = torch.randn((6, len(patterns)), generator=rng, dtype=torch.float64).requires_grad_()
    noise = torch.randn((6, len(patterns)), generator=rng, dtype=torch.float64)
    by_entry = torch.randn((6, m), generator=rng, dtype=torch.float64)
    soft = ((4.0 * gate + noise) / 1.5).softmax(dim=1)  # half-way between the ends
    (expected,) = torch.autograd.grad(((soft @ patterns) * by_entry).sum(), gate)
    torch.testing.assert_close(method.slope(soft.detach(), by_entry, progress=progress), expected)


def test_patterns_are_sampled_in_proportion_to_the_exponentials_of_their_scaled_gates() -> None:
    method = MaskLLM(n=1, m=4, scale=(2.0, 2.0))
    gate = torch.tensor([[0.0, 0.5, 1.0, 0.2]]).repeat(20_000, 1)
    mask, _ = method.sample(gate, torch.ones(20_000, 4), progress=0.0, generator=generator())
    expected = (2 * gate[0]).softmax(dim=0)
    torch.testing.assert_close(mask.float().mean(dim=0), expected, atol=0.015, rtol=0.0)  # four standard deviations


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3, 3)])
def test_every_group_of_a_sample_keeps_n_of_m(shape: tuple[int, ...]) -> None:
    state = MaskLLM().start({"w": torch.randn(shape, generator=generator())}, generator=generator())
    groups = state.forward["w"].movedim(1, -1).reshape(-1, 4)
    assert (groups.sum(dim=1) == 2).all()


@pytest.mark.parametrize("method", [LotteryJackpots(density=0.3), MaskLLM()])
def test_no_parameter_of_the_network_changes(method: MaskUpdater, tmp_path: Path) -> None:
    run(method, tmp_path / "run", recipe_of(budget={"checkpoint_every_s": 0}))
    first, last = (network_of(checkpoint_at(step, tmp_path / "run", tmp_path / str(step))) for step in (1, 18))
    for name, tensor in last.items():
        if name.endswith(("weight", "bias")):
            assert torch.equal(tensor, first[name]), name
    assert not torch.equal(first["2.running_mean"], last["2.running_mean"])


def masks_after(method: MaskUpdater, folder: Path) -> dict[str, Tensor]:
    return dict(outcome(run(method, folder, recipe_of(budget={"evaluate_every": 0}))).masks)


def test_jackpots_that_learn_nothing_are_pruning_by_magnitude_before_training(tmp_path: Path) -> None:
    jackpots = masks_after(LotteryJackpots(density=0.3, lr=NOTHING_LEARNED), tmp_path / "jackpots")
    pruned = masks_after(OneShot(density=0.3, prune_at=0.0), tmp_path / "pruned")
    assert all(torch.equal(mask, pruned[name]) for name, mask in jackpots.items())


def test_gates_that_keep_a_strong_prior_choose_the_largest_weights_of_every_group(tmp_path: Path) -> None:
    learned = masks_after(MaskLLM(lr=NOTHING_LEARNED, prior=1000.0), tmp_path / "learned")
    largest = run(NM(every=1000), tmp_path / "largest", recipe_of(budget={"steps": 1}))
    assert all(torch.equal(mask, outcome(largest).masks[name]) for name, mask in learned.items())


def test_the_gradients_between_two_updates_are_added_up(tmp_path: Path) -> None:
    weights = {"w": torch.randn((4, 4), generator=generator())}
    method = LotteryJackpots(density=0.5, every=2)
    state = method.start(weights, generator=generator())
    for gradient in (torch.ones(4, 4), 2 * torch.ones(4, 4)):
        state = method.observe_gradients(state, {"w": gradient})
    assert torch.equal(state.tensors["gradient/w"], 3 * torch.ones(4, 4))
    assert [step for step in range(7) if method.is_due(step, num_steps=7)] == [1, 3, 5, 6]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the file of a dense network trained on digits."""
    folder = tmp_path_factory.mktemp("trained")
    context = Context(checkpoints=CheckpointFolder(folder / "run"))
    recipe = Recipe(budget=Budget(epochs=15, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9))
    parts = list(train(recipe, model=Mlp(), method=Dense(), data=Digits().load(), seed=0, context=context))
    safetensors.torch.save_file(dict(outcome(parts).weights), folder / "model.safetensors")
    return folder / "model.safetensors"


def searched(method: MaskUpdater, file: Path, folder: Path) -> float:
    """Returns the test accuracy after a search of ten epochs."""
    budget = Budget(epochs=10, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9)
    recipe = Recipe(budget=budget, initial=InitialWeights(path=str(file)))
    context = Context(checkpoints=CheckpointFolder(folder))
    *_, last = train(recipe, model=Mlp(), method=method, data=Digits().load(), seed=0, context=context)
    (accuracy,) = [m.value for m in last.metrics if (m.split, m.name) == ("test", "accuracy")]
    return accuracy


@pytest.mark.slow
@pytest.mark.parametrize("method", [LotteryJackpots(density=0.05), MaskLLM(n=1)])
def test_a_searched_mask_of_frozen_weights_beats_the_mask_by_magnitude(
    method: LotteryJackpots | MaskLLM, trained: Path, tmp_path: Path
) -> None:
    by_magnitude = dataclasses.replace(method, lr=NOTHING_LEARNED)
    if isinstance(by_magnitude, MaskLLM):
        by_magnitude = dataclasses.replace(by_magnitude, prior=1000.0)
    before = searched(by_magnitude, trained, tmp_path / "before")
    after = searched(method, trained, tmp_path / "after")
    assert after > before


def test_an_optimizer_that_was_chosen_is_said_to_be_unused() -> None:
    data = Digits()
    loaded = data.load()
    settings: dict[str, Any] = {"data": data, "model": Mlp(width=8), "budget": Budget(steps=4)}
    search = LotteryJackpots(density=0.5)
    (warning,) = SparseJob(method=search, optimizer=SGD(lr=0.3), **settings).check(loaded)
    assert warning == "optimizer and schedule are not used: method lottery_jackpots trains no weight"
    assert SparseJob(method=search, **settings).check(loaded) == []
    assert SparseJob(method=Static(density=0.5), optimizer=SGD(lr=0.3), **settings).check(loaded) == []
