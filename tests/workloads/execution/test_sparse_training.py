"""Trainings with weights that are stored sparse equal masked ones up to rounding, under every method, and resume bit-equal."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.plug_in import build
from pruneyard.workloads import workload
from pruneyard.workloads.checkpoint import CheckpointFolder, read_checkpoint
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.execution import layers as layers_module
from pruneyard.workloads.gradients.sam import SAM
from pruneyard.workloads.masks.choice import choose_prunable
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.masks.sparse_index import SparseIndex
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.models.vit_tiny import ViTTiny
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.optimizers.adamw import AdamW
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.granet import GraNet
from pruneyard.workloads.sparse.methods.magnitude import Magnitude
from pruneyard.workloads.sparse.methods.mest import MEST, Stages
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.update_schedule import CubicSchedule, LastingSchedule, UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

DATA = Digits(max_train=320, max_test=64).load()
OFTEN = {
    UpdateSchedule: UpdateSchedule(every=4),
    LastingSchedule: LastingSchedule(every=4),
    CubicSchedule: CubicSchedule(every=4),
    Stages: Stages(every=4, sizes=(0.02, 0.01, 0.0)),
}
NEVER_SPARSE = {"dense", "lottery_jackpots", "maskllm", "nm", "topkast"}
"""Methods whose layers stay masked: without masks, or with other masks in the forward pass than in training."""


def method_of(name: str) -> MaskUpdater:
    """Returns a method that updates its masks several times within the budget, if it updates them."""
    method: Any = build("sparse.methods", name)
    settings = {"density": 0.1} if hasattr(method, "density") else {}
    if (schedule := getattr(method, "schedule", None)) is not None:
        settings["schedule"] = OFTEN[type(schedule)]
    return find("sparse.methods", name)(**settings) if settings else method


def training(
    folder: Path,
    method: MaskUpdater,
    execution: layers_module.Execution,
    *,
    model: ModelBuilder = Mlp(width=48, depth=2),  # noqa: B008 - has no state
    stop_at: int | None = None,
    every_step: bool = False,
    steps: int = 20,
    **recipe: Any,
) -> Iterator[Progress]:
    """Trains; with `stop_at` the context asks to stop after so many checks. `every_step` keeps a checkpoint of each step."""
    checks = iter(range(10**6))
    context = Context(
        checkpoints=CheckpointFolder(folder, keep=100),
        should_stop=lambda: stop_at is not None and next(checks) >= stop_at,
    )
    budget = Budget(steps=steps, batch_size=64, evaluate_every=0, checkpoint_every_s=0 if every_step else 1e9)
    return train(
        Recipe(budget=budget, **recipe), model=model, method=method, data=DATA, seed=1, context=context, execution=execution
    )


def final(*args: Any, **kwargs: Any) -> Progress:
    """Returns the last report of a training."""
    *_, last = training(*args, **kwargs)
    return last


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the names of the weights that are stored sparse at some time, as they are."""
    found: list[str] = []
    store = layers_module.SparseLayers.store

    def recording(self: layers_module.SparseLayers, name: str, *args: Any) -> Any:
        found.append(name)
        return store(self, name, *args)

    monkeypatch.setattr(layers_module.SparseLayers, "store", recording)
    return found


def assert_equal(one: Progress, other: Progress) -> None:
    """Compares two finished trainings: masks and counts exactly, weights up to rounding."""
    assert one.outcome is not None
    assert other.outcome is not None
    for name, mask in one.outcome.masks.items():
        assert torch.equal(other.outcome.masks[name], mask), name
    for name, weight in one.outcome.weights.items():
        torch.testing.assert_close(other.outcome.weights[name], weight, atol=1e-5, rtol=1e-4, msg=name)
    assert (one.outcome.num_active, one.outcome.num_parameters) == (other.outcome.num_active, other.outcome.num_parameters)
    assert one.outcome.train_flops == other.outcome.train_flops
    exact = {"density", "explored", "flops"}
    values = [{(m.split, m.name): m.value for m in each.metrics if m.name in exact} for each in (one, other)]
    assert values[0] == values[1]


class EveryKind(nn.Module):
    """An embedding of dark and bright pixels, attention over the lines of an image, and linear layers."""

    def __init__(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.num_pixels = image_shape[-1] * image_shape[-2]
        self.table = nn.Embedding(2 * self.num_pixels, 4)
        nn.init.normal_(self.table.weight, std=0.1)  # as large as the other weights, which share a global density
        self.attention = nn.MultiheadAttention(4 * image_shape[-1], 4, batch_first=True)
        self.hidden = nn.Linear(4 * self.num_pixels, 24)
        self.classifier = nn.Linear(24, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images `(B, 1, H, W)` to logits."""
        codes = torch.arange(self.num_pixels, device=images.device) * 2 + (images.flatten(1) > 0)
        lines = self.table(codes).reshape(len(images), images.shape[-2], -1)
        logits: Tensor = self.classifier(self.hidden(self.attention(lines, lines, lines)[0].flatten(1)).relu())
        return logits


@dataclass(frozen=True)
class WithEveryKind:
    """Builds `EveryKind` in float64, so that rounding cannot hide an error; its embedding is prunable too."""

    dtype: torch.dtype = torch.float64

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Returns the network."""
        network = EveryKind(image_shape, num_classes)
        network = network.to(self.dtype) if self.dtype != torch.float32 else network
        choose_prunable(network, ("*", "table.*"))
        return network


def weights_by_step(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Returns the parameters after every step in their dense shapes, and the masks."""
    network = WithEveryKind().build(image_shape=DATA.image_shape, num_classes=DATA.num_classes)
    shapes = {name: weight.shape for name, weight in network.named_parameters()}
    by_step: dict[int, dict[str, Tensor]] = {}
    for path in folder.glob("step-*"):
        checkpoint = read_checkpoint(path, torch.device("cpu"), name=path.name)
        tensors = dict(checkpoint.tensors)
        for key in [key for key in tensors if key.startswith("mask/") and key.endswith(":starts")]:
            name = key.removeprefix("mask/").removesuffix(":starts")
            starts, columns = tensors.pop(key), tensors.pop(f"mask/{name}:columns")
            index = SparseIndex.of_rows(starts, columns, (len(starts) - 1, shapes[name][-1]))
            tensors[f"mask/{name}"] = index.mask()
            tensors[f"network/{name}"] = index.dense(tensors[f"network/{name}"])
        for key in [key for key in tensors if key.startswith("mask/") and key.endswith(":full")]:
            del tensors[key]
            tensors[key.removesuffix(":full")] = torch.ones(shapes[key.removeprefix("mask/").removesuffix(":full")]).bool()
        by_step[checkpoint.step] = {key: tensor for key, tensor in tensors.items() if key.startswith(("network/", "mask/"))}
    return by_step


def assert_equal_at_every_step(masked: Path, sparse: Path, *, steps: int) -> None:
    """Compares the weights and masks in the checkpoints of two trainings after each of their steps."""
    expected, found = weights_by_step(masked), weights_by_step(sparse)
    assert sorted(expected) == sorted(found) == list(range(1, steps + 1))
    for step, tensors in expected.items():
        assert tensors.keys() == found[step].keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(found[step][key], tensor, atol=1e-12, rtol=1e-10, msg=f"{key} after step {step}")


@pytest.mark.parametrize("name", names("sparse.methods"))
def test_every_method_trains_as_masked_step_by_step(tmp_path: Path, stored: list[str], name: str) -> None:
    method = method_of(name)
    steps: dict[str, Any] = {"model": WithEveryKind(), "every_step": True, "steps": 14}
    masked = final(tmp_path / "masked", method, "masked", **steps)
    assert not stored
    assert_equal(masked, final(tmp_path / "sparse", method, "sparse", **steps))
    kinds = {"table.weight", "attention.in_proj_weight", "attention.out_proj.weight", "hidden.weight"}
    assert not stored if name in NEVER_SPARSE else kinds <= set(stored)
    assert_equal_at_every_step(tmp_path / "masked", tmp_path / "sparse", steps=14)


@pytest.mark.parametrize("optimizer", [AdamW(), SGD(nesterov=True), SGD(momentum=0.0)], ids=["adamw", "nesterov", "plain"])
def test_optimizer_state_moves_with_its_weights(tmp_path: Path, optimizer: Any) -> None:
    method = RigL(density=0.1, schedule=UpdateSchedule(every=4))
    assert_equal(*(final(tmp_path / each, method, each, optimizer=optimizer) for each in ("masked", "sparse")))


@dataclass(frozen=True)
class Pointwise:
    """Convolutions of size 3 and 1, with and without stride, and a linear layer."""

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Returns the network."""
        convolutions = [nn.Conv2d(image_shape[0], 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 32, 1, stride=2), nn.ReLU()]
        return nn.Sequential(*convolutions, nn.Conv2d(32, 32, 1), nn.Flatten(), nn.Linear(32 * 16, num_classes))


@pytest.mark.parametrize(
    ("model", "sparse"),
    [
        (
            ViTTiny(width=16, depth=2, heads=2, patch_size=4),
            {
                "classifier.weight",
                *(f"block{block}.mlp.{place}.weight" for block in (1, 2) for place in (0, 3)),
                *(f"block{block}.attention.in_proj_weight" for block in (1, 2)),
                *(f"block{block}.attention.out_proj.weight" for block in (1, 2)),
            },
        ),
        (ConvNet(width=8), {"classifier.weight"}),
        (Pointwise(), {"2.weight", "4.weight", "6.weight"}),
    ],
    ids=["vit", "convnet", "pointwise"],
)
def test_layers_without_a_sparse_form_stay_masked_beside_sparse_ones(
    tmp_path: Path, stored: list[str], model: ModelBuilder, sparse: set[str]
) -> None:
    method = RigL(density=0.1, distribution="uniform", schedule=UpdateSchedule(every=4))
    assert_equal(*(final(tmp_path / each, method, each, model=model) for each in ("masked", "sparse")))
    assert set(stored) == sparse


def test_weights_are_averaged_as_masked_ones_are(tmp_path: Path) -> None:
    average = Averaging(begin=0.5, per_epoch=2)
    assert_equal(*(final(tmp_path / each, Static(density=0.1), each, average=average) for each in ("masked", "sparse")))


@pytest.mark.parametrize(
    "method",
    [
        RigL(density=0.1, schedule=UpdateSchedule(every=4)),
        GraNet(density=0.05, initial_density=0.4, schedule=LastingSchedule(every=4)),
        Magnitude(density=0.1, schedule=CubicSchedule(every=2)),
    ],
    ids=["rigl", "granet", "magnitude"],
)
@pytest.mark.parametrize("execution", ["sparse", "auto"])
def test_a_stopped_training_resumes_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: MaskUpdater, execution: layers_module.Execution
) -> None:
    asked = Counter[tuple[int, int]]()

    def answer(index: SparseIndex, **_: Any) -> bool:
        """Returns another choice whenever the same layer is measured again; a resumed training must not ask."""
        key = (index.matrix[0], index.num_active)
        asked[key] += 1
        return (key[0] // 24 + asked[key]) % 2 == 0

    for measure in ("is_sparse_faster", "is_lookup_faster"):
        monkeypatch.setattr(layers_module, measure, answer)
    monkeypatch.setattr(workload, "STOP_CHECK_EVERY_S", 0)
    model = WithEveryKind()
    whole = final(tmp_path / "whole", method, execution, model=model)
    asked.clear()
    for stop_at in (3, 9):
        with pytest.raises(InterruptedJobError):
            list(training(tmp_path / "cut", method, execution, model=model, stop_at=stop_at))
    resumed = final(tmp_path / "cut", method, execution, model=model)
    assert whole.outcome is not None
    assert resumed.outcome is not None
    for name, weight in whole.outcome.weights.items():
        assert torch.equal(resumed.outcome.weights[name], weight), name


def test_auto_stores_sparse_what_is_faster(tmp_path: Path, stored: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def large_ones(index: Any, **_: Any) -> bool:
        sizes.append(index.numel())
        return bool(index.numel() > 1000)

    monkeypatch.setattr(layers_module, "is_sparse_faster", large_ones)
    final(tmp_path, SET(density=0.1, schedule=UpdateSchedule(every=4)), "auto")
    assert sorted(sizes) == [480, 48 * 48, 48 * 64]  # each layer once: the number of its active weights stays
    assert set(stored) == {"hidden1.weight", "hidden2.weight"}


def test_what_needs_dense_weights_is_refused() -> None:
    def problem(**fields: Any) -> str:
        job = SparseJob(
            data=Digits(max_train=320, max_test=64),
            model=Mlp(),
            method=Static(density=0.1),
            execution="sparse",
            **{"budget": Budget(steps=4, batch_size=64), **fields},
        )
        with pytest.raises(ValueError, match="execution is sparse, which does not work with") as caught:
            job.check(DATA)
        return str(caught.value)

    assert "budget.compile: true" in problem(budget=Budget(steps=4, batch_size=64, compile=True))
    assert "bfloat16" in problem(budget=Budget(steps=4, batch_size=64, precision="bfloat16"))
    assert "gradient.name: sam" in problem(gradient=SAM())
    assert "swag_rank: 2" in problem(average=Averaging(begin=0.1, per_epoch=4, swag_rank=2))


def test_layers_that_stay_masked_are_named() -> None:
    job = SparseJob(
        data=Digits(max_train=320, max_test=64),
        model=ConvNet(width=8),
        method=MEST(density=0.1, schedule=Stages(every=2)),
        execution="auto",
        budget=Budget(steps=4, batch_size=64),
    )
    (warning,) = [each for each in job.check(DATA) if "execution" in each]
    assert "keeps block1.conv.weight" in warning
    assert "masked" in warning


@pytest.mark.parametrize("name", sorted(NEVER_SPARSE - {"dense"}))
def test_a_method_whose_layers_stay_masked_is_named(name: str) -> None:
    job = SparseJob(data=Digits(), model=Mlp(), method=method_of(name), execution="sparse", budget=Budget(steps=4, batch_size=64))
    (warning,) = [each for each in job.check(DATA) if "execution" in each]
    assert warning.startswith(f"execution: sparse changes nothing: method {name} trains")


def test_a_density_too_high_to_be_stored_sparse_is_named(tmp_path: Path, stored: list[str]) -> None:
    def warnings(density: float) -> list[str]:
        method = Static(density=density, distribution="uniform")
        job = SparseJob(data=Digits(), model=Mlp(), method=method, execution="auto", budget=Budget(steps=4, batch_size=64))
        return [each for each in job.check(DATA) if "execution" in each]

    assert "density is 0.8, but layers are stored sparse up to density 0.5" in warnings(0.8)[0]
    assert warnings(0.5) == warnings(1.0) == []
    final(tmp_path / "high", Static(density=0.8, distribution="uniform"), "sparse", steps=1)
    assert not stored
    final(tmp_path / "low", Static(density=0.5, distribution="uniform"), "sparse", steps=1)
    assert stored


def test_a_subclass_with_scores_of_its_own_is_given_masks() -> None:
    """Its scores are defined on dense weights; the choices for an index would ignore them."""

    class Smallest(SET):
        def grow_scores(self, name: str, state: SparseState, context: UpdateContext) -> Tensor:
            return -context.gradients[name].abs()

    class Renamed(SET):
        pass

    assert (SET.updates_indices, Renamed.updates_indices, Smallest.updates_indices) == (True, True, False)


def test_a_network_that_is_a_single_layer_stays_masked() -> None:
    @dataclass(frozen=True)
    class Single:
        def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
            return nn.Conv2d(image_shape[0], num_classes, kernel_size=1)

    with torch.device("meta"):
        network = Single().build(image_shape=(1, 8, 8), num_classes=10)
    assert layers_module.candidates_of(network, prunable_weights(network), (1, 8, 8)) == frozenset()


@pytest.mark.parametrize(("first", "second"), [("masked", "sparse"), ("sparse", "masked"), ("auto", "sparse")])
def test_a_training_resumes_under_another_execution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: layers_module.Execution, second: layers_module.Execution
) -> None:
    monkeypatch.setattr(workload, "STOP_CHECK_EVERY_S", 0)
    method = RigL(density=0.1, schedule=UpdateSchedule(every=4))
    with pytest.raises(InterruptedJobError):
        list(training(tmp_path / "both", method, first, model=WithEveryKind(), stop_at=9))
    assert_equal(*(final(tmp_path / k, method, e, model=WithEveryKind()) for k, e in (("whole", "masked"), ("both", second))))
