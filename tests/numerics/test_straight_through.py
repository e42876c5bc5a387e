"""Top-KAST and N:M against a plain twin that trains a dense vector with straight-through masks, and at their limits."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn
from torch.func import functional_call

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import NO_NETWORK
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.deploy.files import read_network
from pruneyard.workloads.deploy.formats.semi_structured import SemiStructured
from pruneyard.workloads.masks.distributions import active_counts
from pruneyard.workloads.masks.masks import active_per_layer, prunable_weights
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.seeding import global_stream
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.nm import NM
from pruneyard.workloads.sparse.methods.topkast import TopKAST
from pruneyard.workloads.sparse.updater import StaticMask
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Outcome

NUM_STEPS, SEED = 12, 3
PLAIN = SGD(lr=0.2, momentum=0.0, weight_decay=0.0)
SHAPES = {"a.weight": (12, 8, 3, 3), "b.weight": (30, 20), "c.weight": (10, 30)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int) -> dict[str, Tensor]:
    draws = generator(seed)
    return {name: torch.randn(shape, generator=draws) for name, shape in SHAPES.items()}


@dataclass(frozen=True)
class SmallNetwork:
    """Builds one without norms and dropout: its gradient is a function of weights and rows alone."""

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, num_classes))


@cache
def digits() -> Dataset:
    return Digits(max_train=96, max_test=60).load()


def run(
    method: MaskUpdater,
    folder: Path,
    *,
    optimizer: SGD = PLAIN,
    model: ModelBuilder = SmallNetwork(),  # it has no state
) -> Outcome:
    """Trains with all rows in every step, and a checkpoint after each."""
    budget = Budget(steps=NUM_STEPS, batch_size=len(digits().train), checkpoint_every_s=0)
    context = Context(checkpoints=CheckpointFolder(folder, keep=NUM_STEPS))
    recipe = Recipe(budget=budget, optimizer=optimizer)
    *_, last = train(recipe, model=model, method=method, data=digits(), seed=SEED, context=context)
    assert last.outcome is not None
    return last.outcome


def after(folder: Path, step: int) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors of a run's checkpoint, by group."""
    alone = folder.parent / f"{folder.name}-{step}"
    shutil.copytree(folder / f"step-{step:09d}", alone / f"step-{step:09d}")
    saved = CheckpointFolder(alone).load(torch.device("cpu"))
    assert saved is not None
    groups: dict[str, dict[str, Tensor]] = {"mask": {}, "forward": {}, "network": {}, "updater": {}}
    for key, tensor in saved.tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups


def twin(
    masks_of: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    *,
    penalty: Callable[[Tensor], Tensor],
    every: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns all weights after training, and the last masks: gradients are taken at the masked weights, for all weights."""
    recipe = Recipe(budget=Budget(steps=NUM_STEPS))
    with global_stream(SEED, "init"):
        network = SmallNetwork().build(image_shape=digits().image_shape, num_classes=digits().num_classes)
    split = DeviceSplit(digits().train, mean=digits().mean, std=digits().std)
    images, labels = split.normalise(split.images), split.labels
    weights = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    pruned = prunable_weights(network)
    masks = masks_of({name: weights[name] for name in pruned})
    for step in range(NUM_STEPS):
        cut = {n: (w * masks[n] if n in masks else w).requires_grad_() for n, w in weights.items()}
        loss = nn.functional.cross_entropy(functional_call(network, cut, (images,)), labels)
        gradients = dict(zip(cut, torch.autograd.grad(loss, list(cut.values())), strict=True))
        for name, mask in masks.items():
            gradients[name] = gradients[name] + penalty(mask) * weights[name]
        if step > 0 and step % every == 0:
            masks = masks_of({name: weights[name] for name in pruned})
        rate = PLAIN.lr * recipe.schedule.factor(step, NUM_STEPS)
        weights = {name: (weight - rate * gradients[name]).detach() for name, weight in weights.items()}
    return weights, masks


def largest(weights: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """Returns masks of the largest weights, by sorting each layer."""
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    counts = active_counts(shapes, density=density, rule="erk")
    return {n: w.abs() >= w.abs().flatten().sort().values[-counts[n]] for n, w in weights.items()}


def two_of_four(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns masks of the two largest of every four inputs of every output, by a loop."""
    masks = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
    for name, weight in weights.items():
        for output, first in ((o, i) for o in range(weight.shape[0]) for i in range(0, weight.shape[1], 4)):
            four = sorted(range(first, first + 4), key=lambda i: -abs(float(weight[output, i])))
            masks[name][output, four[:2]] = True
    return masks


def assert_close(ours: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> None:
    """Allows for some float32 roundings of values below 1 in each of a few steps, since rows are summed in another order."""
    for name, tensor in known.items():
        assert torch.allclose(ours[name], tensor, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("penalty", [0.0, 0.05])
def test_training_everything_is_magnitude_straight_through(penalty: float, tmp_path: Path) -> None:
    method = TopKAST(density=0.2, margin=1.0, every=2, penalty=penalty)
    finished = run(method, tmp_path / "run")
    weights, masks = twin(
        lambda w: largest(w, 0.2),
        penalty=lambda mask: penalty * torch.where(mask, 1.0, 1 / 0.2),
        every=2,
    )
    assert_close(after(tmp_path / "run", NUM_STEPS)["network"], weights)
    assert_close(finished.weights, {n: w * masks[n] if n in masks else w for n, w in weights.items()})
    assert all(torch.equal(finished.masks[name], mask) for name, mask in masks.items())
    first = after(tmp_path / "run", 1)["forward"]
    assert any((first[name] != mask).any() for name, mask in masks.items())  # the sets moved on the way


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("every", [1, 3])
def test_two_of_four_is_straight_through_training_by_a_loop_over_fours(
    decay: float, every: int, tmp_path: Path
) -> None:
    finished = run(NM(decay=decay, every=every), tmp_path / "run")
    weights, masks = twin(two_of_four, penalty=lambda mask: decay * ~mask, every=every)
    assert_close(after(tmp_path / "run", NUM_STEPS)["network"], weights)
    assert_close(finished.weights, {n: w * masks[n] if n in masks else w for n, w in weights.items()})
    first = after(tmp_path / "run", 1)["forward"]
    assert any((first[name] != mask).any() for name, mask in masks.items())


@dataclass(frozen=True, kw_only=True)
class Largest(StaticMask):
    """Keeps the largest initial weights for the whole training."""

    density: float

    @property
    def target_density(self) -> float:
        return self.density

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        return SparseState(largest(weights, self.density))


def test_without_margin_penalty_and_new_choices_it_is_static_training(tmp_path: Path) -> None:
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=5e-3)
    ours = TopKAST(density=0.2, margin=0.0, every=NUM_STEPS, penalty=0.0)
    one = run(ours, tmp_path / "ours", optimizer=optimizer)
    other = run(Largest(density=0.2), tmp_path / "static", optimizer=optimizer)
    assert all(torch.equal(one.weights[name], tensor) for name, tensor in other.weights.items())
    assert all(torch.equal(one.masks[name], mask) for name, mask in other.masks.items())
    assert one.train_flops == other.train_flops


def test_the_network_is_evaluated_and_kept_at_the_target_density_exactly(tmp_path: Path) -> None:
    method = TopKAST(density=0.2, margin=0.3, every=3)
    finished = run(method, tmp_path / "run")
    total = 64 * 20 + 20 * 10
    assert sum(active_per_layer(finished.masks).values()) == round(0.2 * total)
    assert sum(int(w.count_nonzero()) for n, w in finished.weights.items() if n in finished.masks) == round(
        0.2 * total
    )
    trained = after(tmp_path / "run", NUM_STEPS)["mask"]
    assert sum(active_per_layer(trained).values()) == round(0.5 * total)
    network = SmallNetwork().build(image_shape=digits().image_shape, num_classes=digits().num_classes)
    network.load_state_dict(finished.weights)
    split = DeviceSplit(digits().test, mean=digits().mean, std=digits().std)
    logits = network(split.normalise(split.images)).detach()
    assert torch.allclose(torch.from_numpy(finished.predictions["test"].logits), logits, atol=1e-5)


def test_weights_outside_wait_with_their_values_and_nothing_is_lost(tmp_path: Path) -> None:
    run(TopKAST(density=0.1, margin=0.1, every=1, penalty=1.0), tmp_path / "run")
    states = [after(tmp_path / "run", step) for step in range(1, NUM_STEPS + 1)]
    moved = 0
    for before, now in pairwise(states):
        for name, trained in now["mask"].items():
            stored = now["updater"][f"stored/{name}"]
            assert not stored[trained].any()
            assert not now["network"][name][~trained].any()
            assert (
                stored[~trained].count_nonzero() == stored[~trained].numel()
            )  # each has the value it left with
            waited = ~before["mask"][name] & ~trained
            assert torch.equal(stored[waited], before["updater"][f"stored/{name}"][waited])
            left = before["mask"][name] & ~trained
            assert torch.equal(stored[left], before["network"][name][left])
            came = ~before["mask"][name] & trained
            # Back with its value: its first gradient is the next step's.
            assert torch.equal(now["network"][name][came], before["updater"][f"stored/{name}"][came])
            moved += int(came.sum())
    assert moved > 0


def updates(method: TopKAST, seed: int) -> Iterator[tuple[SparseState, dict[str, Tensor], SparseState]]:
    """Yields the state, the weights and the next state of some updates, with steps of an optimizer between them."""
    state, weights = method.start(draw(seed), generator=generator()), draw(seed)
    weights = {name: weight * state.masks[name] for name, weight in weights.items()}
    for step in range(1, 4):
        noise = draw(100 * seed + step)
        weights = {name: weight + noise[name] * state.masks[name] for name, weight in weights.items()}
        now = UpdateContext(
            step=step,
            num_steps=9,
            weights=weights,
            gradients={},
            generator=generator(step),
            network=NO_NETWORK,
        )
        following = method.update(state, now)
        yield state, weights, following
        weights = {n: w * following.masks[n] + following.revived[n] for n, w in weights.items()}
        state = following


@settings(deadline=None, max_examples=25)
@given(st.floats(0.02, 1), st.floats(0, 1), st.sampled_from(["layer", "global"]), st.integers(0, 99))
def test_stored_and_trained_are_together_the_dense_vector_of_which_the_sets_are_the_largest(
    density: float, margin: float, scope: str, seed: int
) -> None:
    method = TopKAST(density=density, margin=margin, scope=scope)  # type: ignore[arg-type]
    for state, weights, following in updates(method, seed):
        before = {name: weights[name] + state.tensors[f"stored/{name}"] for name in SHAPES}
        for name, full in before.items():
            trained, used = following.masks[name], following.forward[name]
            now = weights[name] * trained + following.revived[name] + following.tensors[f"stored/{name}"]
            assert torch.equal(now, full)
            assert not (used & ~trained).any()
            for inside, outside in ((used, ~used), (trained, ~trained)):
                if scope == "layer" and outside.any():
                    assert full[inside].abs().min() > full[outside].abs().max()
        assert sum(active_per_layer(following.forward).values()) == sum(method.counts(draw(0)).values())


def test_a_layer_by_hand() -> None:
    # Of six weights two compute and three are trained: 5, -4 and 3. While they train 3 falls to 1, and 2 waits.
    method = TopKAST(density=2 / 6, margin=1 / 6, penalty=0.1, every=10)
    state = method.start({"w": torch.tensor([[5.0, -4.0, 3.0, 2.0, 0.5, -0.1]])}, generator=generator())
    assert state.forward["w"][0].tolist() == [True, True, False, False, False, False]
    assert state.masks["w"][0].tolist() == [True, True, True, False, False, False]
    assert state.tensors["stored/w"][0].tolist() == pytest.approx([0, 0, 0, 2, 0.5, -0.1])
    # 0.1 on A, 0.1 / (1/3) on the rest of B, nothing outside.
    assert method.extra_decay(state)["w"][0].tolist() == pytest.approx([0.1, 0.1, 0.3, 0, 0, 0])
    now = UpdateContext(
        step=10,
        num_steps=20,
        weights={"w": torch.tensor([[5.0, -1.5, 1.0, 0.0, 0.0, 0.0]])},
        gradients={},
        generator=generator(),
        network=NO_NETWORK,
    )
    following = method.update(state, now)
    assert following.forward["w"][0].tolist() == [True, False, False, True, False, False]
    assert following.masks["w"][0].tolist() == [True, True, False, True, False, False]
    assert following.revived["w"][0].tolist() == [0, 0, 0, 2, 0, 0]
    assert following.tensors["stored/w"][0].tolist() == pytest.approx([0, 0, 1, 0, 0.5, -0.1])


@pytest.mark.parametrize("group", [1, 4])
def test_keeping_all_of_every_group_is_dense_training_bit_for_bit(group: int, tmp_path: Path) -> None:
    optimizer = SGD(lr=0.1, momentum=0.9, weight_decay=5e-3)
    ours = run(NM(n=group, m=group, decay=0.5), tmp_path / "ours", optimizer=optimizer)
    dense = run(Dense(), tmp_path / "dense", optimizer=optimizer)
    assert all(torch.equal(ours.weights[name], tensor) for name, tensor in dense.weights.items())
    assert ours.train_flops == dense.train_flops


def test_a_finished_network_has_two_of_every_four_neighbours_and_is_taken_by_the_format_for_them(
    tmp_path: Path,
) -> None:
    finished = run(NM(), tmp_path / "run", model=Mlp(width=64))  # kernels ask for multiples of 32 and 64
    assert len(finished.masks) == 3
    for name, mask in finished.masks.items():
        assert (mask.reshape(-1, 4).sum(1) == 2).all()
        assert (finished.weights[name].reshape(-1, 4).count_nonzero(1) == 2).all()
    blueprint = Blueprint(
        model={"name": "mlp", "width": 64},
        image_shape=digits().image_shape,
        num_outputs=digits().num_classes,
        mean=digits().mean,
        std=digits().std,
    )
    network = FinishedNetwork.of(blueprint, weights=finished.weights, masks=finished.masks)
    (tmp_path / "packed").write_bytes(SemiStructured().encode(network))
    with safe_open(tmp_path / "packed", framework="pt") as file:
        packed = {key.removesuffix(".bits") for key in file.keys() if key.endswith(".bits")}  # noqa: SIM118
    assert packed == {"hidden1.weight", "hidden2.weight"}  # ten outputs are too few for the kernels
    back = read_network(tmp_path / "packed").network.state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in finished.weights.items())


@each_case(
    ("method", "field", "value"),
    [
        (NM, "n", 0),
        (NM, "n", 5),
        (NM, "m", 0),
        (NM, "decay", -1.0),
        (NM, "every", 0),
        (TopKAST, "margin", 1.1),
        (TopKAST, "every", 0),
        (TopKAST, "penalty", float("inf")),
        (TopKAST, "scope", "own"),
    ],
)
def test_a_field_out_of_range_is_refused_by_its_name(method: type, field: str, value: object) -> None:
    needed = {"density": 0.1} if method is TopKAST else {}
    with pytest.raises(ValueError, match=rf"^{field} is"):
        method(**needed, **{field: value})
