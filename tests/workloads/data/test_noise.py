"""Images without content."""

import numpy as np
import pytest

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.sources.noise import Noise


def test_the_same_seed_draws_the_same_images_and_another_others() -> None:
    assert Noise().load().fingerprint == Noise().load().fingerprint
    assert len({Noise(seed=seed).load().fingerprint for seed in range(5)}) == 5
    assert Noise().load().test.images[0].tolist() != Noise().load().train.images[0].tolist()


@each_case("distribution", ["uniform", "gaussian", "binary"])
def test_a_larger_set_begins_with_the_smaller_one(distribution: str) -> None:
    small, large = (Noise(distribution=distribution, num_test=num).load().test for num in (50, 80))  # type: ignore[arg-type]
    assert (large.images[:50] == small.images).all()


@each_case(
    ("distribution", "std", "values"),
    [("uniform", np.sqrt((256**2 - 1) / 12), 256), ("gaussian", None, 256), ("binary", 127.5, 2)],
)
def test_pixels_have_the_distribution_named(distribution: str, std: float | None, values: int) -> None:
    images = Noise(distribution=distribution, num_test=200).load().test.images  # type: ignore[arg-type]
    num_pixels = images.size
    assert images.shape == (200, 3, 32, 32)
    assert len(np.unique(images)) == values
    assert images.mean() == pytest.approx(127.5, abs=5 * 127.5 / np.sqrt(num_pixels))
    if std is not None:
        assert images.std() == pytest.approx(std, rel=0.01)
    else:
        inside = images[(images > 0) & (images < 255)]  # within two standard deviations: 95.45%
        assert len(inside) / num_pixels == pytest.approx(0.9545, abs=0.002)
        assert np.mean(np.abs(images - 127.5) < 63.75) == pytest.approx(0.6827, abs=0.005)
    neighbours = np.corrcoef(images[..., :-1].ravel(), images[..., 1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(num_pixels)


def test_shape_and_numbers_are_those_asked_for() -> None:
    data = Noise(shape=(1, 5, 7), num_train=100, num_test=12).load()
    assert data.image_shape == (1, 5, 7)
    assert [len(split) for split in (data.train, data.val, data.calib, data.test)] == [80, 10, 10, 12]
    assert data.num_classes == 10


@each_case(
    ("fields", "message"),
    [
        ({"shape": (0, 4, 4)}, r"^shape is \[0, 4, 4\]"),
        ({"num_test": 0}, "^num_test is 0"),
        ({"num_train": 0}, "^num_train is 0"),
        ({"val_fraction": 1.0}, "^val_fraction"),
    ],
)
def test_what_makes_no_images_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Noise(**fields)  # type: ignore[arg-type]
