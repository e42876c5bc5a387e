"""Previews of a set during distillation: when they are made, what they show, and equal bytes after any interruption."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pruneyard.testing.cases import each_case
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill import previews
from pruneyard.workloads.distill.evaluate import Evaluation
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.methods.dm import DM
from pruneyard.workloads.distill.methods.random import Random
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.seeding import seed_globally
from pruneyard.workloads.workload import Context

DATA = Digits(max_train=240, max_test=60)
EVALUATION = Evaluation(networks=1, epochs=1, batch_size=16)


def set_of(images: torch.Tensor, num_classes: int) -> SyntheticSet:
    return SyntheticSet(
        images=images,
        labels=torch.arange(num_classes).repeat_interleave(len(images) // num_classes),
        soft_labels=torch.zeros(0, num_classes),
        mean=(0.0,) * images.shape[1],
        std=(1.0,) * images.shape[1],
    )


def job(iterations: int = 20, **fields: object) -> DistillJob:
    method = DM(ipc=2, iterations=iterations, real_batch=8)
    settings = {"model": ConvNet(width=4, depth=2), "evaluation": EVALUATION, "method": method} | fields
    return DistillJob(data=DATA, **settings)  # type: ignore[arg-type]


def files(job: DistillJob, folder: Path, context: Context | None = None) -> dict[str, bytes]:
    last = list(job.run(context or Context(checkpoints=CheckpointFolder(folder))))[-1].outcome
    assert last is not None
    return dict(last.files)


@each_case("num_iterations", [1, 2, 3, 7, 100, 20_000])
def test_previews_are_few_and_show_the_start_and_the_end(num_iterations: int) -> None:
    found = previews.preview_iterations(num_iterations)
    assert {0, num_iterations} <= found
    assert len(found) <= len(previews.SHARES) <= 10
    assert max(found) == num_iterations


def test_each_class_is_a_row() -> None:
    images = torch.tensor([0.0, 0.2, 0.4, 1.0, 0.0, 1.0]).view(6, 1, 1, 1).expand(6, 1, 2, 3)
    found = previews.render_preview(set_of(images, 2))
    shades = [[0, 51, 102], [255, 0, 255]]
    assert found.dtype == torch.uint8
    assert found[..., 0].tolist() == np.repeat(np.repeat(shades, 2, axis=0), 3, axis=1).tolist()


def test_a_preview_is_bounded_for_any_set() -> None:
    most = previews.MAX_SIDE
    found = previews.render_preview(set_of(torch.rand(12 * 7, 3, 130, 70), 12))
    assert found.shape == (10 * -(-130 // 3), 5 * -(-70 // 3), 3)  # three times smaller, since 130 > 2 * 64
    assert previews.render_preview(set_of(torch.rand(2, 1, most, most), 2)).shape == (2 * most, most, 1)


def test_shrinking_averages_what_can_be_seen() -> None:
    """White averages with black to grey."""
    image = torch.zeros(1, 1, 128, 128)
    image[..., ::2] = 1.0
    assert (previews.render_preview(set_of(image, 1)) == 128).all()


def test_a_set_that_never_changes_has_no_previews(tmp_path: Path) -> None:
    assert set(files(job(method=Random(ipc=2)), tmp_path)) == {
        "synthetic_set.safetensors",
        "synthetic_set.png",
    }
    still = torch.zeros(1, 1, 1, dtype=torch.uint8)
    assert previews.encode_previews({0: still, 5: still.clone(), 10: still.clone()}) == {}
    assert list(previews.encode_previews({0: still, 5: still.clone(), 10: still + 1})) == [
        "images-000000.png",
        "images-000010.png",
    ]


def test_the_last_one_shows_the_images_of_the_set(tmp_path: Path) -> None:
    found = files(job(), tmp_path)
    taken = sorted(name for name in found if name.startswith("images-"))
    assert taken == [f"images-{step:06d}.png" for step in (0, 2, 4, 8, 12, 16, 20)]
    last, whole = (
        np.asarray(Image.open(io.BytesIO(found[name]))) for name in (taken[-1], "synthetic_set.png")
    )
    np.testing.assert_array_equal(last, whole)  # two images of ten classes are all there are
    assert (np.asarray(Image.open(io.BytesIO(found[taken[0]]))) != whole).any()


@each_case("dropout", [0.0, 0.3])
def test_evaluations_and_interruptions_change_no_image(dropout: float, tmp_path: Path) -> None:
    """Dropout of the networks that distil samples from the global generator, as that of evaluations does."""
    model, tmp_path = ConvNet(width=4, depth=1, dropout=dropout), tmp_path / str(dropout)

    def images(folder: str, **fields: object) -> bytes:
        seed_globally(0)  # as at the start of a trial
        made = files(job(iterations=4, model=model, **fields), tmp_path / folder)
        return made["synthetic_set.safetensors"]

    whole = images("whole", checkpoint_every_s=0)
    assert images("often", evaluate_every=2) == whole
    shutil.copytree(tmp_path / "whole" / "step-000000003", tmp_path / "resumed" / "step-000000003")
    assert images("resumed") == whole
    assert images("other", seed=1) != whole


@pytest.mark.slow
def test_neither_intervals_nor_interruptions_change_them(tmp_path: Path) -> None:
    undisturbed = files(job(), tmp_path / "undisturbed")
    assert files(job(evaluate_every=3, checkpoint_every_s=0), tmp_path / "often") == undisturbed
    every = CheckpointFolder(tmp_path / "every", keep=99)
    files(job(checkpoint_every_s=0), every.path, Context(checkpoints=every))
    saved = sorted(every.path.glob("step-*"))
    assert len(saved) == 20
    for path in saved:
        shutil.copytree(path, tmp_path / path.name / path.name)
        assert files(job(), tmp_path / path.name) == undisturbed
