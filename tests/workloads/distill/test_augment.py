"""Transforms and CutMix against the released code, computed by brute force."""

import math
from collections import Counter

import pytest
import torch
from distilling import generator

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill.augment import TRANSFORMS, Strategy
from pruneyard.workloads.distill.evaluate import cutmix


def cut_rows(side: int, num: int) -> Counter[tuple[int, ...]]:
    """Returns how often each row of an image is cut, for uniform numbers in the middle of `num` equal parts of [0, 1)."""
    uniforms = torch.zeros(num, 3)
    uniforms[:, 0] = (torch.arange(num) + 0.5) / num
    cut = TRANSFORMS["cutout"](torch.ones(num, 1, side, side), uniforms)
    return Counter(tuple((image[0] == 0).any(1).nonzero().flatten().tolist()) for image in cut)


@each_case("side", [7, 8, 9, 28, 30, 32])
def test_a_square_of_half_the_side_is_cut_at_every_place_alike(side: int) -> None:
    """An even square has side + 1 places, an odd one has side; an odd number of pixels is not rounded down."""
    size = math.floor(side / 2 + 0.5)
    num_places = side if size % 2 else side + 1
    firsts = [place - size // 2 for place in range(num_places)]
    wanted = Counter(tuple(row for row in range(first, first + size) if 0 <= row < side) for first in firsts)
    assert cut_rows(side, num_places) == wanted


def test_cutout_worked_by_hand() -> None:
    assert sorted(map(len, cut_rows(8, 9).elements())) == [2, 2, 3, 3, 4, 4, 4, 4, 4]
    assert sorted(map(len, cut_rows(5, 5).elements())) == [2, 2, 3, 3, 3]


def test_shifts_are_an_eighth_of_the_side_halves_rounded_up() -> None:
    """2.5 pixels of 20 are 3: seven shifts, equally often."""
    uniforms = torch.zeros(7, 3)
    uniforms[:, 0] = (torch.arange(7) + 0.5) / 7
    rows = torch.arange(1.0, 21.0).view(1, 1, 20, 1).expand(7, 1, 20, 20)
    moved = TRANSFORMS["crop"](rows, uniforms)
    assert [int((image[0] == 10).nonzero()[0, 0]) - 9 for image in moved] == [-3, -2, -1, 0, 1, 2, 3]


def test_what_is_always_applied_comes_first_and_cutout_last() -> None:
    strategy = Strategy.of("color_crop_cutout_flip_scale", always=("flip", "color", "cutout"))
    for seed in range(10):
        names = [name for name, _ in strategy.sample(generator(seed)).steps]
        assert names in (["flip", "color", "crop", "cutout"], ["flip", "color", "scale", "cutout"])
    assert [name for name, _ in Strategy.of("cutout", always=("cutout",)).sample(generator()).steps] == ["cutout"]


def mean_share(side: int) -> float:
    """Returns the mean share of boxes of side * sqrt(1 - u) pixels, rounded down to even, around every pixel, cut at borders."""
    mean = 0.0
    for pixels in range(side):
        likelihood = ((pixels + 1) ** 2 - pixels**2) / side**2
        half = pixels // 2
        lengths = [min(centre + half, side) - max(centre - half, 0) for centre in range(side)]
        mean += likelihood * (sum(lengths) / side / side) ** 2
    return mean


@pytest.mark.parametrize(("side", "share"), [(28, 0.296), (32, 0.299)])
def test_cutmix_mixes_as_much_as_its_release(side: int, share: float) -> None:
    assert mean_share(side) == pytest.approx(share, abs=5e-4)
    draws, found = generator(), []
    images, targets = torch.stack([torch.zeros(1, side, side), torch.ones(1, side, side)]), torch.eye(2)
    for _ in range(5000):
        mixed, labels = cutmix(images, targets, draws)
        if not torch.equal(labels, targets):
            found.append(float(mixed[0].mean()))
            assert found[-1] == pytest.approx(float(labels[0, 1]), abs=1e-6)
    # Half of the permutations of two images leave them, and so do boxes without pixels; both count as the share that is mixed.
    assert 2 * sum(found) / 5000 == pytest.approx(mean_share(side), abs=0.015)


def test_every_box_of_cutmix_has_an_even_side_or_ends_at_the_border() -> None:
    images, draws = torch.rand(2, 1, 8, 8, generator=generator()), generator(1)
    seen = set()
    for _ in range(300):
        changed = (cutmix(images, torch.eye(2), draws)[0] != images)[0, 0]
        if changed.any():
            rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
            for found in (rows, columns):
                first, last = int(found[0]), int(found[-1])
                assert (last - first + 1) % 2 == 0 or first == 0 or last == 7
                seen.add((first, last))
    assert len(seen) > 15
