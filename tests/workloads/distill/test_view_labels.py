"""Labels of views: requests to the teacher, training on its labels, and the memory for it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.testing.cases import each_case
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.evaluate import Evaluation, train_network
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.methods.random import Random
from pruneyard.workloads.distill.methods.rded import RDED
from pruneyard.workloads.distill.methods.sre2l import SRe2L
from pruneyard.workloads.distill.separation import measure_separation
from pruneyard.workloads.distill.teacher import Teacher
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.seeding import global_stream
from pruneyard.workloads.workload import Context, Outcome, Progress

MODEL = ConvNet(width=4, depth=2)
TEACHER = Teacher(model=ConvNet(width=4, depth=2, norm="batch"), epochs=2, batch_size=64)
METHODS: dict[str, Any] = {
    "rded": RDED(ipc=2, candidates=4, crops=1, teacher=TEACHER),
    "sre2l": SRe2L(ipc=2, iterations=2, teacher=TEACHER),
}
PLAIN = Evaluation(networks=1, epochs=4, batch_size=8, lr=0.05, augment="")
VIEWS = replace(PLAIN, labels="views")
SEEN = replace(VIEWS, augment="crop_scale", cutmix=0.5, temperature=4.0)


@cache
def digits() -> Dataset:
    return Digits(max_train=240, max_test=60).load()


def run(
    method: Any, evaluation: Evaluation, folder: Path, *, keep: int = 2, every_s: float = 1e9
) -> list[Progress]:
    job = DistillJob(
        data=Digits(), method=method, model=MODEL, evaluation=evaluation, seed=3, checkpoint_every_s=every_s
    )
    return list(
        job.run(Context(checkpoints=CheckpointFolder(folder, keep=keep), load_data=lambda source: digits()))
    )


def outcome(progress: list[Progress]) -> Outcome:
    assert progress[-1].outcome is not None
    return progress[-1].outcome


def logits(progress: list[Progress]) -> Tensor:
    return torch.from_numpy(outcome(progress).predictions["test"].logits)


def numbers(progress: list[Progress]) -> dict[tuple[str, str], float]:
    return {(metric.split, metric.name): metric.value for metric in progress[-1].metrics}


@pytest.mark.parametrize("name", METHODS)
def test_of_images_as_they_are_they_are_the_stored_ones(name: str, tmp_path: Path) -> None:
    """Rounding of the teacher's outputs depends on the other images in the batch."""
    stored, views, seen = (
        logits(run(METHODS[name], evaluation, tmp_path / str(number)))
        for number, evaluation in enumerate((PLAIN, VIEWS, replace(VIEWS, augment="crop")))
    )
    assert torch.allclose(stored, views, atol=1e-4)
    assert (stored - seen).abs().max() > 1e-2


def set_of(num: int = 6) -> SyntheticSet:
    return SyntheticSet(
        images=torch.rand((num, 1, 8, 8), generator=torch.Generator().manual_seed(0)),
        labels=torch.arange(num) % 3,
        soft_labels=torch.zeros(0, 3),
        mean=(0.5,),
        std=(0.5,),
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_step_goes_down_the_divergence_from_the_teacher_times_the_squared_temperature(
    temperature: float,
) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    evaluation = replace(VIEWS, epochs=1, milestones=(), weight_decay=0.0, temperature=temperature)
    made = set_of()
    network = train_network(
        made,
        model=MODEL,
        evaluation=evaluation,
        num_classes=3,
        seed=0,
        index=0,
        label=lambda images: (teacher(images) / temperature).softmax(1).detach(),
    )
    with global_stream(0, "evaluate/convnet/0"):
        by_hand = MODEL.build(image_shape=(1, 8, 8), num_classes=3)
    images = made.training_images()
    softened = (by_hand(images) / temperature).log_softmax(1)
    wanted = (teacher(images) / temperature).softmax(1).detach()
    divergence = functional.kl_div(softened, wanted, reduction="batchmean") * temperature**2
    gradients = torch.autograd.grad(divergence, list(by_hand.parameters()))
    for after, before, gradient in zip(network.parameters(), by_hand.parameters(), gradients, strict=True):
        assert torch.allclose(after, before - 0.05 * gradient, atol=1e-6)
    assert not torch.equal(next(network.parameters()), next(by_hand.parameters()))


SHOWN: list[Tensor] = []


class Watching(nn.Sequential):
    """A network that records its training inputs."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            SHOWN.append(images.detach().clone())
        found: Tensor = super().forward(images)
        return found


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A linear model."""

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        return Watching(nn.Flatten(), nn.Linear(image_shape[1] * image_shape[2], num_classes))


def test_the_teacher_is_asked_about_the_very_batches_that_the_network_sees() -> None:
    SHOWN.clear()
    asked: list[Tensor] = []

    def label(images: Tensor) -> Tensor:
        asked.append(images.clone())
        return torch.full((len(images), 3), 1 / 3)

    evaluation = replace(SEEN, batch_size=3, epochs=3, cutmix=1.0)
    train_network(set_of(), model=Watched(), evaluation=evaluation, num_classes=3, seed=0, index=0, label=label)
    assert len(asked) == 6
    assert torch.equal(torch.cat(asked), torch.cat(SHOWN))
    stored = set_of().training_images()
    assert not any(torch.equal(view, image) for view in torch.cat(asked) for image in stored)
    assert not any(torch.equal(asked[0], other) for other in asked[1:])


def test_a_job_resumed_after_any_iteration_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, every = run(METHODS["rded"], SEEN, tmp_path / "whole"), tmp_path / "every"
    run(METHODS["rded"], SEEN, every, keep=9, every_s=0)
    found = sorted(every.glob("step-*"))
    assert len(found) == 3
    for path in found:
        shutil.copytree(path, tmp_path / f"from-{path.name}" / path.name)
        resumed = run(METHODS["rded"], SEEN, tmp_path / f"from-{path.name}")
        assert outcome(resumed).files == outcome(whole).files
        assert torch.equal(logits(resumed), logits(whole))
        assert numbers(resumed) == numbers(whole)


def test_the_kept_teacher_is_counted_and_stored_labels_are_not_kept(tmp_path: Path) -> None:
    made, stored = (run(METHODS["rded"], e, tmp_path / e.labels) for e in (SEEN, PLAIN))
    files = outcome(made).files
    teacher, images = load(files["teacher.safetensors"]), load(files["synthetic_set.safetensors"])
    network = TEACHER.model.build(image_shape=(1, 8, 8), num_classes=10)
    network.load_state_dict(teacher)
    by_hand = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    assert images["soft_labels"].shape == (0, 10)
    found = numbers(made)
    assert found["train", "storage_bytes"] == 4 * 20 * 64 + by_hand
    assert found["train", "view_labels_bytes"] == 4 * 20 * 10 * 2
    assert "teacher.safetensors" not in outcome(stored).files
    assert numbers(stored)["train", "storage_bytes"] == 4 * 20 * 64 + 4 * 20 * 10
    assert ("train", "view_labels_bytes") not in numbers(stored)


def test_images_that_share_a_stored_one_have_views_each(tmp_path: Path) -> None:
    method = replace(METHODS["rded"], ipc=1, factor=2)
    evaluation = replace(VIEWS, max_steps=20)  # 40 images in 5 batches: 4 epochs
    found = numbers(run(method, evaluation, tmp_path))
    assert found["train", "view_labels_bytes"] == 4 * 40 * 10 * 2


def by_hand(synthetic: SyntheticSet, evaluation: Evaluation) -> Mapping[str, float]:
    """Returns made-up accuracies by pixel value: 0.3, 0.2 or 0.7, plus 0.2 with labels of views."""
    shade = round(10 * float(synthetic.images[0, 0, 0, 0]))
    return {"accuracy": {1: 0.3, 2: 0.2, 3: 0.7}[shade] + 0.2 * (evaluation.labels == "views")}


def test_the_contribution_of_the_teacher_is_separated_from_that_of_the_images() -> None:
    one, random, whole = (
        replace(set_of(), images=torch.full((6, 1, 8, 8), shade / 10)) for shade in (1, 2, 3)
    )
    evaluation = replace(SEEN, max_steps=10, dd_ranking=True)
    found = measure_separation(
        by_hand, evaluation, baseline=by_hand(one, evaluation), synthetic=one, random=random, whole=whole
    )
    assert found["test@hard_labels", "accuracy"] == pytest.approx(0.3)
    assert found["test@no_augment", "accuracy"] == pytest.approx(0.5)
    assert found["test@random", "accuracy"] == pytest.approx(0.2)
    assert found["test@random_views", "accuracy"] == pytest.approx(0.4)
    assert (found["test", "hlr"], found["test", "ior"]) == (pytest.approx(0.4), pytest.approx(0.1))


@each_case(
    ("fields", "message"),
    [
        ({"labels": "seen"}, "labels is 'seen'; it must be stored or views"),
        ({"labels": "views", "temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"temperature": 20.0}, "temperature is 20.0 with stored labels"),
    ],
)
def test_values_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Evaluation(**fields)


def test_methods_without_a_teacher_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^evaluation needs a teacher for labels: views, and method random has none"
    ):
        DistillJob(data=Digits(), method=Random(ipc=1), evaluation=VIEWS)
