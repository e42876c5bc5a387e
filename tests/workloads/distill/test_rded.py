"""RDED: which crops are kept, how they are stored, and their labels; and the crops themselves."""

from typing import Any

import pytest
import torch
from distilling import context, generator, states
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.distill.crops import WHOLE, crop_and_resize, random_boxes
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.methods.rded import RDED
from pruneyard.workloads.distill.teacher import Teacher
from pruneyard.workloads.models.convnet import ConvNet

TEACHER = Teacher(model=ConvNet(width=4, depth=2, norm="batch"), epochs=3, batch_size=32, augment="crop")
FIELDS: dict[str, Any] = {"ipc": 2, "candidates": 8, "crops": 3, "teacher": TEACHER}


def finished(method: RDED, at: DistillContext) -> DistillState:
    return states(method, at)[-1]


def judged(images: Tensor, boxes: Tensor, factor: int) -> Tensor:
    """Returns crops as the teacher sees them: shrunk to a cell, in the middle of the mean colour."""
    seen, side = torch.zeros_like(images), 8 // factor
    first = (8 - side) // 2
    seen[:, :, first : first + side, first : first + side] = functional.avg_pool2d(crop_and_resize(images, boxes), factor)
    return seen


@pytest.mark.parametrize("factor", [1, 2])
def test_the_kept_crops_are_those_with_the_lowest_loss_one_of_an_image(factor: int) -> None:
    """Compares every crop of every candidate, cut one by one, with the content of the set."""
    method, at = RDED(**FIELDS, factor=factor), context()
    state = finished(method, at)
    network, rows = TEACHER.network(state.tensors, at), state.tensors["rows"]
    labels, images = at.real.split.labels[rows], at.real.images(rows)
    found = []
    for round_ in range(3):
        boxes = random_boxes(80, smallest=0.08, stretch=1.0, generator=at.stream("crops", round_))
        seen = judged(images, boxes, factor)
        losses = functional.cross_entropy(network(seen), labels, reduction="none")
        cells = functional.avg_pool2d(crop_and_resize(images, boxes), factor)
        found += list(zip(labels.tolist(), losses.tolist(), rows.tolist(), cells, strict=True))
    made = method.synthetic_set(state, at)
    mean, std = at.real.mean[0], at.real.std[0]
    side = 8 // factor
    for label in range(10):
        wanted: dict[int, Tensor] = {}
        for _, _, row, cell in sorted((f for f in found if f[0] == label), key=lambda f: f[1]):
            wanted.setdefault(row, cell)
        best = list(wanted.values())[: 2 * factor**2]
        stored = (made.images[label * 2 : label * 2 + 2] - mean) / std
        ours = stored.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).reshape(-1, 1, side, side)
        assert torch.allclose(ours, torch.stack(best), atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_soft_labels_are_the_teachers(temperature: float) -> None:
    method, at = RDED(**FIELDS, temperature=temperature), context()
    state = finished(method, at)
    made = method.synthetic_set(state, at)
    with torch.no_grad():
        wanted = (TEACHER.network(state.tensors, at)(made.training_images()) / temperature).softmax(1)
    assert torch.allclose(made.soft_labels, wanted, atol=1e-5)
    assert torch.allclose(made.targets(10), made.soft_labels)


def test_the_label_of_a_stitched_image_is_the_mean_over_its_crops() -> None:
    method, at = RDED(**FIELDS, factor=2), context()
    state = finished(method, at)
    made = method.synthetic_set(state, at)
    assert (len(made.images), len(made.training_images())) == (20, 80)
    with torch.no_grad():
        each = TEACHER.network(state.tensors, at)(made.training_images()).softmax(1)
    for image in range(20):
        assert torch.allclose(made.soft_labels[image], each[image::20].mean(0), atol=1e-5)


def test_more_rounds_find_crops_that_are_no_harder() -> None:
    losses = [float(state.numbers["crop_loss"]) for state in states(RDED(**FIELDS), context())[TEACHER.epochs + 1 :]]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_before_the_first_round_the_set_is_whole_images_of_its_classes() -> None:
    method, at = RDED(**FIELDS), context()
    state = method.start(at)
    made = method.synthetic_set(state, at)
    pixels = at.real.split.images.float() / 255
    for image, label in zip(made.images, made.labels, strict=True):
        distances = (pixels - image).abs().amax((1, 2, 3))
        assert float(distances.min()) < 1e-5
        assert int(at.real.split.labels[distances.argmin()]) == int(label)


def test_the_whole_box_is_the_image_and_a_ramp_is_read_where_the_box_lies() -> None:
    """On pixels whose value is the column of their centre, column j of a box shows left + width * (j + 1/2) / 8."""
    ramp = (torch.arange(8.0) + 0.5).expand(1, 1, 8, 8)
    assert torch.allclose(crop_and_resize(ramp, torch.tensor([WHOLE])), ramp, atol=1e-5)
    shown = crop_and_resize(ramp, torch.tensor([[0.1, 0.25, 0.7, 0.5]]))
    assert torch.allclose(shown, (2 + 4 * (torch.arange(8.0) + 0.5) / 8).expand(1, 1, 8, 8), atol=1e-5)
    turned = crop_and_resize(ramp.transpose(2, 3), torch.tensor([[0.25, 0.1, 0.5, 0.7]]))
    assert torch.allclose(turned, shown.transpose(2, 3), atol=1e-5)


def test_random_boxes_lie_inside_and_keep_to_their_sizes_and_shapes() -> None:
    boxes = random_boxes(2000, smallest=0.5, stretch=4 / 3, generator=generator())
    top, left, height, width = boxes.unbind(1)
    assert (boxes >= 0).all()
    assert (torch.maximum(top + height, left + width) <= 1 + 1e-6).all()
    free = (height < 1) & (width < 1)
    area, ratio = (height * width)[free], (width / height)[free]
    assert float(area.min()) >= 0.5
    assert 3 / 4 - 1e-5 <= float(ratio.min()) < 0.8 < 1.25 < float(ratio.max()) <= 4 / 3 + 1e-5
    assert float(free.float().mean()) > 0.1


def test_decoding_a_stitched_set_gives_crops_of_the_right_class() -> None:
    """The cells, cut out of the stored images and put in the middle of zeros, are again those the teacher was sure of."""
    method, at = RDED(**FIELDS, factor=2), context()
    state = finished(method, at)
    made = method.synthetic_set(state, at)
    stored = (made.images - at.real.mean[0]) / at.real.std[0]
    cells = [stored[:, :, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
    seen = functional.pad(torch.cat(cells), (2, 2, 2, 2))
    with torch.no_grad():
        losses = functional.cross_entropy(TEACHER.network(state.tensors, at)(seen), made.labels.repeat(4))
    assert float(losses) == pytest.approx(state.numbers["crop_loss"], rel=1e-4)


def test_too_few_candidates_and_factors_that_leave_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^candidates is 3; it must be at least ipc \* factor\^2 = 8"):
        RDED(ipc=2, factor=2, candidates=3)
    with pytest.raises(ValueError, match=r"^factor is 3; it must divide"):
        RDED(ipc=1, factor=3).start(context())
    with pytest.raises(ValueError, match=r"training rows, but 50 crops are needed"):
        RDED(ipc=50).start(context())
