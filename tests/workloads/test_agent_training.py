"""Gradient rules with a snapshot in the training loop: their cost, their metrics, and their anchors."""

import dataclasses
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.loss_evaluation import single_process_backward
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import Augmentation, epoch_order
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.gradients.agent import AGENT
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.gradients.sam import SAM
from pruneyard.workloads.gradients.svrg import SVRG
from pruneyard.workloads.interfaces import GradientRule, LossInputs, StatelessObjective, Tensors
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.objectives.pgd import PGD
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.backward import EpochStart, NetworkTensors
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Outcome, Progress

STEPS_PER_EPOCH, BATCH = 6, 16


@cache
def digits() -> Dataset:
    return Digits(max_train=120, max_test=60).load()  # 96 rows to train on


def run(folder: Path, rule: GradientRule, *, method: Any = Dense(), **fields: Any) -> list[Progress]:  # noqa: B008
    steps = fields.pop("steps", 2 * STEPS_PER_EPOCH)
    options: dict[str, Any] = {"optimizer": SGD(lr=0.05), "augment": Augmentation(pad=1, flip=True)} | fields
    model = options.pop("model", Mlp(width=24, depth=1))
    recipe = Recipe(
        budget=Budget(steps=steps, batch_size=BATCH, checkpoint_every_s=1e9), gradient=rule, **options
    )
    context = Context(checkpoints=CheckpointFolder(folder))
    return list(train(recipe, model=model, method=method, data=digits(), seed=0, context=context))


def outcome(progress: list[Progress]) -> Outcome:
    last = progress[-1].outcome
    assert last is not None
    return last


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        (SVRG(), 3 + 6),  # mu; two gradients a step
        (AGENT(), 3 + 1 + 6),  # and the old snapshot's losses
        (AGENT(coefficient="gradient"), 3 + 3 + 6),
        (AGENT(refresh_every=2), 2 + 6),  # a look every other epoch of two
        (AGENT(anchor_fraction=0.5), 2 + 6),
        (SAM(), 6),
    ],
    ids=["svrg", "agent", "gradient", "refresh", "sampled", "sam"],
)
def test_a_dense_epoch_costs_its_passes(rule: GradientRule, passes: float, tmp_path: Path) -> None:
    """In units of one forward pass, of which plain has three."""
    plain = outcome(run(tmp_path / "plain", Plain())).train_flops
    assert plain is not None
    assert outcome(run(tmp_path / "rule", rule)).train_flops == pytest.approx(plain * passes / 3, rel=1e-12)


def test_passes_over_attacked_images_cost_their_attacks(tmp_path: Path) -> None:
    """In forward passes: an attack of three steps costs 6, a gradient then 9, a loss 7; AGENT asks for 3 and 1 of them."""
    attacked = PGD(num_steps=3)
    plain = outcome(run(tmp_path / "plain", Plain(), objective=attacked)).train_flops
    rule = outcome(run(tmp_path / "rule", AGENT(), objective=attacked)).train_flops
    assert plain is not None
    assert rule == pytest.approx(plain * (9 + 7 + 18) / 9, rel=1e-12)


def test_a_sparse_epoch_pays_a_dense_gradient_for_mu_and_none_where_an_update_replaces_the_step(
    tmp_path: Path,
) -> None:
    rigl = RigL(density=0.25, distribution="uniform", schedule=UpdateSchedule(every=4))
    dense = 2 * (64 * 24 + 24 * 10)  # of a forward pass and a row
    sparse = 0.25 * dense
    per_step, look = 6 * sparse, (2 * sparse + dense) + sparse
    update = 2 * sparse + dense
    found = outcome(run(tmp_path, AGENT(), method=rigl)).train_flops  # updates at steps 4 and 8 of 12
    assert found == pytest.approx(BATCH * (10 * per_step + 2 * update + 12 * look), rel=1e-12)


@pytest.mark.parametrize(
    ("method", "dense_epochs"),
    [
        (Static(density=0.02), 0),
        (SET(density=0.02, drop_fraction=0.5, schedule=UpdateSchedule(every=4)), 0),  # grows at random, at steps 4 and 8
        (RigL(density=0.02, schedule=UpdateSchedule(every=4, until=0.5)), 1),  # the last update is at step 4 of 12
        (RigL(density=0.02, schedule=UpdateSchedule(every=5, until=1.0)), 1),  # step 5 ends the first epoch
        (RigL(density=0.02, schedule=UpdateSchedule(every=4)), 2),
    ],
    ids=["static", "set", "rigl-ends", "rigl-late", "rigl"],
)
def test_the_anchor_is_dense_only_in_epochs_in_which_masks_grow_by_gradient(
    method: Any, dense_epochs: int, tmp_path: Path
) -> None:
    """With uniform density d, look and step cost 10 d against 3 d; a dense anchor costs 1 - d more.

    A step that an update replaces has no gradient of the snapshot, which saves 3 d of one of twelve steps.
    """
    method = dataclasses.replace(method, distribution="uniform")
    density = (31 + 5) / (1_536 + 240)  # 0.02 of both layers in whole numbers
    plain, found = (
        outcome(run(tmp_path / rule.__class__.__name__, rule, method=method)).train_flops for rule in (Plain(), AGENT())
    )
    assert plain is not None
    assert found is not None
    forward = 2 * (64 * 24 + 24 * 10) * BATCH * 2 * STEPS_PER_EPOCH
    num_replaced = sum(method.replaces_step and method.is_due(step, num_steps=12) for step in range(12))
    extra = 7 * density + dense_epochs / 2 * (1 - density) - num_replaced / 12 * 3 * density
    assert (found - plain) / forward == pytest.approx(extra, rel=1e-12)
    if not dense_epochs and isinstance(method, Static):
        assert found / plain == pytest.approx(10 / 3, rel=1e-12)


def test_with_static_masks_a_sparse_anchor_gives_the_gradients_of_a_dense_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = outcome(run(tmp_path / "sparse", AGENT(gamma=1.0), method=Static(density=0.1))).weights
    monkeypatch.setattr(EpochStart, "gradient_masks", lambda epoch, num_epochs: {})
    dense = outcome(run(tmp_path / "dense", AGENT(gamma=1.0), method=Static(density=0.1))).weights
    assert all(torch.equal(weight, dense[name]) for name, weight in sparse.items())


def test_c_hat_is_reported_and_plain_reports_nothing_new(tmp_path: Path) -> None:
    names = {m.name for part in run(tmp_path / "plain", Plain()) for m in part.metrics if m.split == "train"}
    found = [m for part in run(tmp_path / "agent", AGENT()) for m in part.metrics if m.split == "train"]
    assert {m.name for m in found} == names | {"c_hat"}
    first, second = (m.value for m in found if m.name == "c_hat")
    assert first == pytest.approx(0.7 * 0.1 + 0.3)  # nothing has moved at the first look
    assert 0.7 * first <= second <= 0.7 * first + 0.3
    assert second != first


def test_passes_are_part_of_the_training_time(tmp_path: Path) -> None:
    """Twelve steps of two passes and twelve batches of two looks' passes, each of ten milliseconds or more."""

    class Sleeping(StatelessObjective):
        def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
            time.sleep(0.01)
            return CrossEntropy().loss(inputs)

    assert outcome(run(tmp_path, AGENT(), objective=Sleeping())).train_s >= 48 * 0.01


@pytest.mark.parametrize("rule", [SVRG(refresh_every=2), AGENT(gamma=1.0, refresh_every=2)])
def test_the_mean_of_an_epoch_is_that_of_the_plain_gradients(rule: GradientRule, tmp_path: Path) -> None:
    """Weights move away from the snapshot for one epoch and stand in the next, which goes over the same rows in other batches.

    Single precision: sums of six gradients agree to some 1e-7 of the largest; 1e-6 is asked for.
    """
    moving = RecordingBuilder(moves=STEPS_PER_EPOCH)
    optimizers = {"rule": moving, "plain": RecordingBuilder(moves=STEPS_PER_EPOCH, follows=moving)}
    for name, chosen in {"rule": rule, "plain": Plain()}.items():
        run(tmp_path / name, chosen, optimizer=optimizers[name], augment=Augmentation())
    means = {
        name: [torch.stack(t).mean(0) for t in zip(*built.built[0].each[STEPS_PER_EPOCH:], strict=True)]
        for name, built in optimizers.items()
    }
    scale = max(float(mean.abs().max()) for mean in means["plain"])
    for plain, corrected in zip(means["plain"], means["rule"], strict=True):
        assert torch.allclose(plain, corrected, rtol=0, atol=1e-6 * scale)
    last = (optimizers[name].built[0].each[-1][0] for name in ("plain", "rule"))
    assert not torch.allclose(*last, rtol=0, atol=1e-2 * scale)  # single gradients do differ


class RecordingSGD(torch.optim.Optimizer):
    """SGD that records every step's gradients; moves the weights for some steps, by them or by recorded ones."""

    def __init__(self, parameters: list[nn.Parameter], *, moves: int, follows: "RecordingSGD | None") -> None:
        super().__init__(parameters, {"lr": 0.0})
        self.parameters, self.moves, self.follows = parameters, moves, follows
        self.each: list[list[Tensor]] = []

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        gradients = [p.grad.clone() for p in self.parameters if p.grad is not None]
        assert len(gradients) == len(self.parameters)
        if len(self.each) < self.moves:
            used = self.follows.each[len(self.each)] if self.follows else gradients
            torch._foreach_add_(self.parameters, used, alpha=-0.2)
        self.each.append(gradients)


@dataclasses.dataclass
class RecordingBuilder:
    """Builds the optimizer and gives the test access to it."""

    moves: int = 0
    follows: "RecordingBuilder | None" = None
    lr: float = 1.0
    built: list[RecordingSGD] = dataclasses.field(default_factory=list)

    def build(self, parameters: Any) -> torch.optim.Optimizer:
        follows = self.follows.built[0] if self.follows else None
        self.built.append(RecordingSGD([p for _, p in parameters], moves=self.moves, follows=follows))
        return self.built[-1]


def test_with_full_coefficient_every_first_step_is_the_full_gradient(tmp_path: Path) -> None:
    """Where the weights are the snapshot, mu - gs + g is mu for any batch; it is masked as any gradient."""
    optimizer = RecordingBuilder()
    method = Static(density=0.5)
    run(tmp_path, SVRG(), method=method, optimizer=optimizer, steps=STEPS_PER_EPOCH)
    each = optimizer.built[0].each
    for gradients in each[1:]:
        for first, later in zip(each[0], gradients, strict=True):
            assert torch.allclose(first, later, rtol=0, atol=1e-6 * float(first.abs().max()))


@dataclass(frozen=True)
class DropoutNetwork:
    """A network whose gradient depends on random numbers of its forward pass."""

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(math.prod(image_shape), num_classes))


def test_both_gradients_of_a_step_drop_the_same_units(tmp_path: Path) -> None:
    """At the snapshot g - gs is then exactly zero, so that all steps of an unmoved epoch are equal to rounding."""
    optimizer = RecordingBuilder()
    run(tmp_path, SVRG(), model=DropoutNetwork(), optimizer=optimizer, steps=STEPS_PER_EPOCH)
    each = optimizer.built[0].each
    for weight, bias in each[1:]:
        assert torch.allclose(weight, each[0][0], rtol=0, atol=1e-6)
        assert torch.allclose(bias, each[0][1], rtol=0, atol=1e-6)


def test_a_sampled_anchor_uses_whole_batches_chosen_by_seed_and_epoch_alone() -> None:
    steps_run: list[int] = []

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        steps_run.append(step)
        return torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)

    def positions(epoch: int, fraction: float, seed: int = 0) -> list[int]:
        steps_run.clear()
        network_tensors = NetworkTensors.of(nn.Linear(1, 1))
        start = EpochStart(
            network_tensors=network_tensors,
            backward=single_process_backward(network_tensors, 2),
            loss_fn=lambda images, labels, step: (images.sum(), {}),
            step_weights=lambda step: nullcontext(),
            should_stop=lambda: False,
            batch_of=batch_of,
            steps=range(20 * epoch, 20 * epoch + 20),
            masks={},
            trained={},
            grows_before=lambda step: False,
            count=lambda flops: None,
            flops_per_row=3.0,
            dense_flops_per_row=3.0,
            forward_flops_per_row=1.0,
            seed=seed,
        )
        assert start.number == epoch
        assert len(list(start.batches(fraction))) == len(steps_run)
        return [step - 20 * epoch for step in steps_run]

    assert positions(0, 1.0) == list(range(20))
    first = positions(1, 0.25)
    assert len(set(first)) == 5
    assert first == sorted(first) == positions(1, 0.25)
    assert first != positions(2, 0.25)
    assert first != positions(1, 0.25, seed=1)
    assert len(positions(0, 0.001)) == 1


def test_the_order_of_an_epoch_has_whole_batches_only() -> None:
    """What the tests above rest on: 96 rows are six batches of 16, none is left out."""
    assert len(digits().train) == STEPS_PER_EPOCH * BATCH
    assert len(epoch_order(96, seed=0, epoch=0)) == 96
