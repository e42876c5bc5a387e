"""Decoding of images, and the cache of decoded arrays."""

import io
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from pictures import cells, picture, png, write_folder, write_parquet
from PIL import Image

from pruneyard.workloads.data import array_cache
from pruneyard.workloads.data.decoding import decode
from pruneyard.workloads.data.sources.image_folder import ImageFolder
from pruneyard.workloads.data.sources.image_parquet import ImageParquet


def test_images_are_decoded_once_and_again_when_the_file_changes(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = data_folder / "train.parquet"
    write_parquet(file, cells(20), np.arange(20) % 2)
    source = ImageParquet(path=str(data_folder))
    first = source.load()
    cached = list((tmp_path / "cache" / "arrays").iterdir())
    assert [path.suffix for path in cached] == [".npy"]
    with monkeypatch.context() as patched:
        patched.setattr("pruneyard.workloads.data.sources.image_parquet.decode", None)  # cannot be called
        assert source.load().fingerprint == first.fingerprint
    write_parquet(file, cells(20, first=50), np.arange(20) % 2)
    os.utime(file, ns=(0, 0))
    assert source.load().fingerprint != first.fingerprint


def test_a_damaged_cache_is_made_again(
    data_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(data_folder, "train", per_class=10)
    source = ImageFolder(path=str(data_folder))
    first = source.load()
    (cached,) = (tmp_path / "cache" / "arrays").iterdir()
    for content in (b"", cached.read_bytes()[:200]):
        cached.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert source.load().fingerprint == first.fingerprint
        assert f"The cached array {cached} cannot be read" in caplog.text
        caplog.clear()


def test_data_load_without_a_writable_cache(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    write_folder(data_folder, "train", per_class=10)
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("PRUNEYARD_CACHE", str(blocked))
    with caplog.at_level(logging.WARNING):
        assert len(ImageFolder(path=str(data_folder)).load().test) == 4
    assert "cannot be written" in caplog.text


def test_the_cache_leaves_no_files_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "save", full)
    made = array_cache.cached_array(lambda: np.ones(3, dtype=np.uint8), files=[], options="")
    assert made.tolist() == [1, 1, 1]
    assert list((tmp_path / "cache" / "arrays").iterdir()) == []


def test_grey_and_colour_images_together_become_colour() -> None:
    grey, colour = picture(0, mode="L"), picture(1)
    images = decode([png(grey), png(colour)], where=str, resize=None)
    assert images.shape == (2, 3, 5, 6)
    np.testing.assert_array_equal(images[0], np.broadcast_to(grey, (3, 5, 6)))
    np.testing.assert_array_equal(images[1], colour.transpose(2, 0, 1))


def test_images_with_sixteen_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="0 has pixels of mode I;16; they must have 8 bits per channel"):
        decode([png(np.ones((4, 4), dtype=np.uint16))], where=str, resize=None)


def test_many_images_keep_their_order_across_threads() -> None:
    pixels = np.arange(1000, dtype=np.uint16).view(np.uint8).reshape(1000, 1, 2)
    images = decode([png(pair) for pair in pixels], where=str, resize=None)
    np.testing.assert_array_equal(images[:, 0], pixels)


CORNER = np.zeros((2, 4), dtype=np.uint8)  # upright: black but for its upper left corner
CORNER[0, 0] = 255
STORED = {  # by EXIF orientation: where the first stored row and column lie in the upright image
    1: CORNER,
    2: CORNER[:, ::-1],  # top, right
    3: CORNER[::-1, ::-1],  # bottom, right
    4: CORNER[::-1],  # bottom, left
    5: CORNER.T,  # left, top
    6: CORNER.T[::-1],  # right, top
    7: CORNER.T[::-1, ::-1],  # right, bottom
    8: CORNER.T[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_images_are_turned_upright_as_their_exif_orientation_says(form: str) -> None:
    encoded = []
    for orientation, stored in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(stored)).save(buffer, format=form, exif=exif, lossless=True)
        encoded.append(buffer.getvalue())
    images = decode(encoded, where=str, resize=None)
    assert images.shape[2:] == (2, 4)
    assert all(np.array_equal(image[0], CORNER) for image in images)
    resized = decode(encoded, where=str, resize=8)
    assert all(np.array_equal(image, resized[0]) for image in resized)
