"""Data sources on real files, where `$PRUNEYARD_DATA` has them."""

import os
from pathlib import Path

import numpy as np
import pytest

from pruneyard.workloads.data.sources.image_parquet import ImageParquet
from pruneyard.workloads.data.sources.mnist import Mnist

REAL = os.environ.get("PRUNEYARD_DATA", "")  # before the tests' own setting


def real(relative: str) -> Path:
    path = Path(REAL) / relative
    if not REAL or not path.exists():
        pytest.skip(f"PRUNEYARD_DATA has no {relative}")
    return path


def test_mnist_has_its_published_statistics() -> None:
    real("MNIST/raw")
    published = Mnist(root=REAL).read()
    assert published.train.images.shape == (60_000, 1, 28, 28)
    assert published.test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(published.train.labels).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    data = Mnist(root=REAL, val_fraction=0, calib_fraction=0).load()
    assert data.mean == pytest.approx([0.1307], abs=5e-5)
    assert data.std == pytest.approx([0.3081], abs=5e-5)


@pytest.mark.slow
def test_cifar10_in_parquet_has_1000_test_images_of_each_class(tmp_path: Path) -> None:
    """The 10,000 test rows alone, in the place of training rows, because decoding all takes long."""
    (tmp_path / "train.parquet").symlink_to(next(real("cifar10").glob("test*.parquet")))
    data = ImageParquet(path=str(tmp_path), val_fraction=0.1, calib_fraction=0.1).load()
    assert data.image_shape == (3, 32, 32)
    for split, num in ((data.train, 640), (data.val, 80), (data.calib, 80), (data.test, 200)):
        assert np.bincount(split.labels).tolist() == [num] * 10
    # published of all training rows; JPEG and the choice of rows move them a little
    assert data.mean == pytest.approx([0.491, 0.482, 0.447], abs=0.01)
