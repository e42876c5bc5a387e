"""Stored images and the training images that are decoded from them."""

import pytest
import torch
from distilling import context, generator
from torch import Tensor
from torch.nn import functional

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.multi_formation import GREY, decode, decode_labels
from pruneyard.workloads.distill.initial_images import tiled_images


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed), dtype=torch.float64)


@each_case("factor", [2, 3, 4])
@each_case("side", [8, 12, 7])
def test_each_image_becomes_factor_squared_ones_of_its_size(factor: int, side: int) -> None:
    assert decode(draw(5, 3, side, side), factor).shape == (5 * factor**2, 3, side, side)


def test_factor_1_changes_nothing() -> None:
    images = draw(4, 1, 8, 8)
    assert torch.equal(decode(images, 1), images)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_constant_image_becomes_constant_images(factor: int) -> None:
    images = torch.tensor([0.25, 0.75], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    torch.testing.assert_close(decode(images, factor), torch.cat([images] * factor**2), rtol=0, atol=1e-15)


def test_crops_of_all_images_come_before_the_next_crop() -> None:
    """Crop (i, j) of image n is at (2 i + j) N + n; the crop's values are its own constant."""
    cells = torch.arange(12, dtype=torch.float64).view(3, 1, 2, 2)
    made = decode(cells.repeat_interleave(4, 2).repeat_interleave(4, 3), 2)
    expected = [cells[n, 0, i, j].item() for i in range(2) for j in range(2) for n in range(3)]
    assert made.mean((1, 2, 3)).tolist() == expected
    assert made.flatten(1).std(1).max() == 0


def test_a_crop_changes_only_the_images_made_of_it() -> None:
    images = draw(3, 1, 8, 8)
    changed = images.clone()
    changed[1, :, 4:, :4] += 0.1  # crop (1, 0)
    differs = (decode(images, 2) != decode(changed, 2)).flatten(1).any(1)
    assert differs.nonzero().flatten().tolist() == [2 * 3 + 1]


def test_enlargement_by_hand() -> None:
    """A crop (0, 1) of one row, twice as wide: samples at -1/4, 1/4, 3/4, 5/4 of the way, cut off at the ends."""
    image = torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 4, dtype=torch.float64).view(1, 1, 4, 4)
    torch.testing.assert_close(
        decode(image, 2)[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=torch.float64)
    )


@each_case(("factor", "side"), [(2, 8), (4, 8), (3, 8)])
def test_the_gradient_is_the_adjoint(factor: int, side: int) -> None:
    """<D x, y> = <x, D^T y> for the linear part D; what is padded adds a constant."""
    images = draw(2, 3, side, side).requires_grad_()
    made = decode(images, factor)
    offset = decode(torch.zeros_like(images), factor)
    others = draw(*made.shape, seed=1)
    (back,) = torch.autograd.grad(made, images, others)
    linear = ((made - offset) * others).sum()
    torch.testing.assert_close(linear, (images * back).sum(), rtol=1e-12, atol=0)
    assert (float(offset.detach().abs().max()) > 0) == (side % factor > 0)


def test_what_the_factor_does_not_divide_is_padded_with_grey() -> None:
    made = decode(torch.ones(1, 1, 5, 5, dtype=torch.float64), 2)
    assert float(made[3, 0, -1, -1]) == GREY  # the lower right corner of the last of the 3x3 crops
    assert float(made[0].min()) == pytest.approx(1, abs=1e-15)


def test_labels_follow_the_images() -> None:
    assert decode_labels(torch.tensor([0, 0, 1]), 2).tolist() == [0, 0, 1] * 4


def test_a_tiled_start_shows_factor_squared_different_real_images_of_the_class() -> None:
    at = context()
    made = tiled_images(ipc=1, factor=2, context=at)
    cells = made.unfold(2, 4, 4).unfold(3, 4, 4).reshape(10, 4, 16)
    for label, rows in enumerate(at.real.rows_of_class):
        shrunk = functional.interpolate(at.real.images(rows), size=(4, 4), mode="nearest").flatten(1)
        matches = (cells[label][:, None] == shrunk[None]).all(2)
        assert matches.any(1).all()
        assert len(set(matches.int().argmax(1).tolist())) == 4


def test_a_start_with_more_cells_than_rows_shows_rows_again() -> None:
    made = tiled_images(ipc=10, factor=3, context=context())
    assert made.shape == (100, 1, 8, 8)
    assert torch.isfinite(made).all()


def test_a_tiled_start_of_factor_1_is_real_images() -> None:
    at = context()
    made = tiled_images(ipc=2, factor=1, context=at)
    for label, rows in enumerate(at.real.rows_of_class):
        real = at.real.images(rows)
        for image in made[2 * label : 2 * label + 2]:
            assert (real == image).flatten(1).all(1).any()
