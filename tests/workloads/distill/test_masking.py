"""Masks on synthetic images."""

import math
from typing import Any

import pytest
import torch
from distilling import generator

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill.masking import Masking

ONES = torch.ones(40, 3, 16, 16)


def test_no_ratio_draws_nothing_and_hands_the_images_through() -> None:
    draws = generator()
    before = draws.get_state()
    assert Masking()(ONES, draws) is ONES
    assert torch.equal(draws.get_state(), before)


@each_case(
    ("unit", "units"), [("pixels", 40 * 256), ("patches", 40 * 16), ("channels", 40 * 3)]
)
def test_about_the_ratio_is_masked(unit: Any, units: int) -> None:
    """Within four standard deviations of a binomial share."""
    share = 1 - float(Masking(ratio=0.3, unit=unit)(ONES, generator()).mean())
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / units))


def test_what_is_masked_as_a_whole() -> None:
    by_pixel, by_patch, by_channel = (
        Masking(ratio=0.4, unit=unit)(ONES, generator())  # type: ignore[arg-type]
        for unit in ("pixels", "patches", "channels")
    )
    assert (by_pixel == by_pixel[:, :1]).all()
    blocks = by_patch.unfold(2, 4, 4).unfold(3, 4, 4)
    assert (blocks == blocks[:, :1, :, :, :1, :1]).all()
    assert (by_channel == by_channel[..., :1, :1]).all()
    assert all(made.unique().tolist() == [0, 1] for made in (by_pixel, by_patch, by_channel))


def test_images_have_masks_of_their_own() -> None:
    made = Masking(ratio=0.5)(ONES[:2], generator())
    assert not torch.equal(made[0], made[1])


def test_patches_that_do_not_fit_are_cut_off() -> None:
    made = Masking(ratio=0.5, unit="patches", patch=5)(ONES, generator())
    assert made.shape == ONES.shape
    assert (made[:, :, 15:] == made[:, :, 15:16]).all()


def test_rescaling_keeps_the_mean() -> None:
    made = Masking(ratio=0.2, rescaled=True)(ONES, generator())
    torch.testing.assert_close(made.unique(), torch.tensor([0.0, 1.25]))


def test_masked_pixels_get_no_gradient() -> None:
    images = torch.randn((2, 1, 8, 8), generator=generator(1)).requires_grad_()
    made = Masking(ratio=0.5)(images, generator())
    (gradient,) = torch.autograd.grad((made**2).sum() + made.sum(), images)
    assert (gradient[made == 0] == 0).all()
    assert (gradient[made != 0] != 0).any()


@each_case("fields", [{"ratio": 1.0}, {"ratio": -0.1}, {"patch": 0}])
def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(ValueError, match=f"^{name} is"):
        Masking(**fields)
