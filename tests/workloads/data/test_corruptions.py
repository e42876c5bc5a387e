"""Corruptions of images: identity, range, growth with the severity, independence of batches, and single ones by hand."""

import io
import itertools
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.corruptions.blurs import zoom_blur
from pruneyard.workloads.data.corruptions.catalogue import CORRUPTIONS, SEVERITIES, STANDARD, corrupt
from pruneyard.workloads.data.corruptions.filters import gaussian, zoomed
from pruneyard.workloads.data.corruptions.row_noise import RowNoise
from pruneyard.workloads.data.sources.color_digits import ColorDigits, palette
from pruneyard.workloads.data.sources.corrupted import Corrupted
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.sources.wine import Wine

PARAMETERS_FALL = {"glass_blur", "frost", "elastic_transform", "snow"}
"""Their published parameters do not all grow with the severity."""


@cache
def smooth(channels: int = 3, side: int = 32, num: int = 24) -> Tensor:
    """Returns smooth random images, uint8."""
    raw = gaussian(torch.rand(num, channels, side, side, generator=torch.Generator().manual_seed(0)), 1.5)
    low, high = raw.amin(dim=(1, 2, 3), keepdim=True), raw.amax(dim=(1, 2, 3), keepdim=True)
    return (255 * (raw - low) / (high - low)).to(torch.uint8)


@cache
def distances(name: str) -> list[float]:
    """Returns the mean distance of a pixel to the clean image at every severity."""
    images = smooth().float()
    return [float((corrupted(name, s, images) - images).square().mean().sqrt()) for s in (0, *SEVERITIES)]


def corrupted(name: str, severity: int, images: Tensor, *, seed: int = 0) -> Tensor:
    return corrupt(images, name, severity, rows=torch.arange(len(images)), seed=seed)


def test_there_are_the_fifteen_of_the_benchmark() -> None:
    assert len(STANDARD) == 15
    assert set(CORRUPTIONS) - set(STANDARD) == {"gaussian_blur", "rotation"}


@each_case("name", CORRUPTIONS)
def test_severity_0_is_the_identity_and_every_other_changes_images_within_their_range(name: str) -> None:
    for images in (smooth(), smooth(1, 8), smooth(3, 13), smooth(1, 28).float()):
        assert corrupted(name, 0, images) is images
        for severity in SEVERITIES:
            found = corrupted(name, severity, images)
            assert (found.shape, found.dtype) == (images.shape, images.dtype)
            assert float(found.min()) >= 0
            assert float(found.max()) <= 255
    assert distances(name)[1] > 0.5


@each_case("name", [name for name in CORRUPTIONS if name not in {*PARAMETERS_FALL, "rotation"}])
def test_the_distance_to_the_clean_image_grows_with_the_severity(name: str) -> None:
    found = distances(name)
    assert all(after >= before - 1e-4 for before, after in itertools.pairwise(found)), found
    assert found[5] > found[1] > found[0] == 0


def test_rotation_grows_until_the_images_have_nothing_in_common() -> None:
    digits = torch.from_numpy(Digits().load().test.images[:100])
    found = [float((corrupted("rotation", s, digits).float() - digits).square().mean()) for s in (0, *SEVERITIES)]
    assert found == sorted(found)


def test_where_published_parameters_fall_the_strongest_severity_of_a_kind_is_still_further() -> None:
    """Glass blur moves pixels once at severities 1 to 3 and twice at 4 and 5; frost adds more ice and keeps less of the image;
    snow has heavier flakes behind a higher threshold at 3.
    """
    glass = distances("glass_blur")
    assert max(glass[1:4]) < min(glass[4:])
    assert distances("frost")[3] > distances("frost")[1]
    snow = distances("snow")
    assert snow[1] < min(snow[2:4]) < max(snow[2:4]) < snow[4]


@each_case("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_every_batch(name: str) -> None:
    images, rows = smooth().float(), torch.arange(24)
    whole = corrupt(images, name, 3, rows=rows, seed=7)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    split = torch.cat([corrupt(images[part], name, 3, rows=rows[part], seed=7) for part in order.split(5)])
    # Rounding of a filter may differ between batches, and JPEG rounds coefficients once more.
    assert torch.allclose(split, whole[order], atol=1e-2)


@each_case("name", ["gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "snow", "frost", "fog", "elastic_transform"])
def test_another_seed_gives_other_random_numbers(name: str) -> None:
    assert not torch.equal(corrupted(name, 3, smooth()), corrupted(name, 3, smooth(), seed=1))
    assert torch.equal(corrupted(name, 3, smooth()), corrupted(name, 3, smooth()))


def test_random_numbers_are_uniform_and_unrelated_over_rows_names_and_seeds() -> None:
    rows = torch.arange(2000)
    first = RowNoise(seed=0, rows=rows).uniform("a", 50)
    others = [
        RowNoise(seed=0, rows=rows).uniform("b", 50),
        RowNoise(seed=1, rows=rows).uniform("a", 50),
        RowNoise(seed=0, rows=rows + 1).uniform("a", 50).roll(2, 1),
    ]
    counts = torch.histc(first, bins=20, min=0, max=1) / first.numel()
    assert float((counts - 0.05).abs().max()) < 4 * (0.05 * 0.95 / first.numel()) ** 0.5
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack((first.flatten(), other.flatten())))[0, 1])) < 4 / first.numel() ** 0.5
    normal = RowNoise(seed=0, rows=rows).normal("a", 50)
    assert float(normal.mean()) == pytest.approx(0, abs=4 / normal.numel() ** 0.5)
    assert float(normal.var()) == pytest.approx(1, abs=4 * (2 / normal.numel()) ** 0.5)


def test_shot_noise_has_the_mean_and_the_variance_of_counts() -> None:
    """A pixel of 0.5 at severity 5 is a count of mean 25, divided by 50: variance 25 / 2500."""
    images = torch.full((500, 1, 8, 8), 127.5)
    found = corrupted("shot_noise", 5, images) / 255
    mean = round(0.5 * 255) / 255
    assert float(found.mean()) == pytest.approx(mean, abs=4 * (mean / 50 / found.numel()) ** 0.5)
    assert float(found.var()) == pytest.approx(mean / 50, rel=0.05)
    assert torch.allclose(found * 50, (found * 50).round(), atol=1e-4)


def test_simple_ones_by_hand() -> None:
    image = torch.tensor([[0.0, 255.0], [127.5, 51.0]]).view(1, 1, 2, 2)
    mean = (0 + 255 + 127.5 + 51) / 4
    assert torch.allclose(corrupted("contrast", 5, image), 0.15 * (image - mean) + mean)
    assert torch.allclose(corrupted("brightness", 4, image), (image + 51).clamp(max=255))
    colour = torch.tensor([51.0, 102.0, 0.0]).view(1, 3, 1, 1)  # value 0.4, raised to 0.5: a factor of 1.25
    assert torch.allclose(corrupted("brightness", 2, colour), 1.25 * colour)
    column = torch.arange(8.0).view(1, 1, 1, 8)  # 8 pixels become 5 boxes of 1.6: the first is (0 + 0.6 * 1) / 1.6
    assert float(corrupted("pixelate", 5, column).flatten()[0]) == pytest.approx(0.6 / 1.6)


@each_case(("severity", "end"), list(zip(SEVERITIES, (1.06, 1.11, 1.16, 1.21, 1.26), strict=True)))
def test_zoom_blur_averages_the_enlargements_of_the_published_script(severity: int, end: float) -> None:
    """`np.arange(1, end, 0.01)`, which for 1.06 and 1.11 ends with `end` itself, by rounding."""
    images = smooth(num=2).float()
    factors = np.arange(1, end, 0.01).tolist()
    expected = (images + sum(zoomed(images, factor) for factor in factors)) / (len(factors) + 1)
    assert torch.allclose(zoom_blur(images, RowNoise(seed=0, rows=torch.arange(2)), severity), expected, atol=1e-3)


def test_jpeg_is_close_to_that_of_pillow() -> None:
    """Grey images, which need no conversion of colours. Pillow computes in integers and rounds a few coefficients otherwise."""
    images = smooth(1, 32)
    for severity, quality in zip(SEVERITIES, (80, 65, 58, 50, 40), strict=True):
        found = corrupted("jpeg_compression", severity, images)
        for image, ours in zip(images[:4], found, strict=False):
            file = io.BytesIO()
            Image.fromarray(image[0].numpy()).save(file, "JPEG", quality=quality)
            theirs = torch.from_numpy(np.asarray(Image.open(file)).copy())
            difference = (theirs.int() - ours[0].int()).abs()
            assert float(difference.float().mean()) < 0.5  # grey levels


def test_the_source_corrupts_the_splits_it_is_told_and_no_label() -> None:
    clean, test_only = Digits().load(), Corrupted(base=Digits(), corruption="gaussian_noise").load()
    assert np.array_equal(test_only.train.images, clean.train.images)
    assert not np.array_equal(test_only.test.images, clean.test.images)
    assert np.array_equal(test_only.test.labels, clean.test.labels)
    every = Corrupted(base=Digits(), corruption="gaussian_noise", splits=("train", "test")).load()
    assert np.array_equal(every.test.images, test_only.test.images)
    assert every.std != clean.std
    assert Corrupted(base=Digits(), corruption="fog", severity=0).load().fingerprint == clean.fingerprint
    with pytest.raises(ValueError, match="corruption is 'fgo'"):
        Corrupted(base=Digits(), corruption="fgo")
    with pytest.raises(ValueError, match="only images can be corrupted"):
        Corrupted(base=Wine(), corruption="fog").load()


def test_colours_follow_the_class_as_often_as_asked() -> None:
    """The colour of an image is that of its brightest pixel; the palette has a hue for each class."""
    data = ColorDigits(correlation=0.9, test_correlation=0.0).load()
    for split, share in ((data.train, 0.9), (data.test, 0.0)):
        peak = split.images.reshape(len(split), 3, -1)
        colours = np.take_along_axis(peak, peak.sum(axis=1).argmax(axis=1)[:, None, None], axis=2)[:, :, 0] / 255.0
        hues = np.linalg.norm(colours[:, None] - palette(10)[None], axis=2).argmin(axis=1)
        matching = float((hues == split.labels).mean())
        assert matching == pytest.approx(share, abs=4 * (share * (1 - share) / len(split)) ** 0.5 + 1e-9)
    grey = Digits().load()
    assert np.array_equal(data.train.images.max(axis=1), grey.train.images[:, 0])
    with pytest.raises(ValueError, match=r"they must be images \(1, H, W\)"):
        ColorDigits(base=ColorDigits()).load()
