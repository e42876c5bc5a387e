"""Images in folders and in Parquet files, decoded and cached."""

import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pruneyard.workloads.data import array_cache
from pruneyard.workloads.data.dataset import DataNotFoundError
from pruneyard.workloads.data.decoding import decode
from pruneyard.workloads.data.duplicates import shared_images
from pruneyard.workloads.data.sources.image_folder import ImageFolder
from pruneyard.workloads.data.sources.image_parquet import ImageParquet


def picture(seed: int, *, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> np.ndarray:
    """Random pixels: (height, width, 3) or (height, width) for a grey one; size: (width, height)."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_folder(root: Path, part: str, *, per_class: int, seed: int = 0, mode: str = "RGB") -> None:
    """Pictures of the classes `bird` and `ant`; those of `bird` come first in time."""
    for number, name in enumerate(("bird", "ant")):
        folder = root / part / name
        folder.mkdir(parents=True)
        for i in range(per_class):
            (folder / f"{i:03}.png").write_bytes(png(picture(seed + 1000 * number + i, mode=mode)))


def write_parquet(
    file: Path, images: list[Any], labels: Any, *, image: str = "img", label: str = "label"
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({image: images, label: labels}).to_parquet(file)


def cells(num: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": png(picture(first + i)), "path": f"{i}.png"} for i in range(num)]


def expected(seeds: list[int], mode: str = "RGB") -> np.ndarray:
    """(N, C, H, W)."""
    stacked = np.stack([picture(seed, mode=mode) for seed in seeds])
    return stacked.transpose(0, 3, 1, 2) if mode == "RGB" else stacked[:, None]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_is_read_class_by_class_with_its_test_part(data_folder: Path, mode: str) -> None:
    write_folder(data_folder / "pets", "train", per_class=12, mode=mode)
    write_folder(data_folder / "pets", "test", per_class=3, seed=100, mode=mode)
    source = ImageFolder(path="pets")
    published = source.read()
    assert published.classes == ("ant", "bird")
    np.testing.assert_array_equal(published.train.images, expected([*range(1000, 1012), *range(12)], mode))
    np.testing.assert_array_equal(published.test.images, expected([1100, 1101, 1102, 100, 101, 102], mode))
    assert published.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.load().image_shape == (3 if mode == "RGB" else 1, 5, 6)


def test_a_val_folder_serves_as_test_unless_there_is_a_test_folder(
    data_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(data_folder, "train", per_class=10)
    write_folder(data_folder, "val", per_class=2, seed=200)
    assert len(ImageFolder(path=str(data_folder)).load().test) == 4
    write_folder(data_folder, "test", per_class=3, seed=100)
    with caplog.at_level(logging.WARNING):
        assert len(ImageFolder(path=str(data_folder)).load().test) == 6
    assert f"{data_folder / 'val'} is not read" in caplog.text


def test_test_rows_are_held_out_where_there_are_none(data_folder: Path) -> None:
    write_folder(data_folder, "train", per_class=20)
    data = ImageFolder(path=str(data_folder), test_fraction=0.25).load()
    assert np.bincount(data.test.labels).tolist() == [5, 5]
    assert not set(data.test.row_ids) & {*data.train.row_ids, *data.val.row_ids, *data.calib.row_ids}


def test_images_of_different_sizes_need_resize(data_folder: Path) -> None:
    write_folder(data_folder, "train", per_class=10)
    odd = data_folder / "train" / "bird" / "003.png"
    odd.write_bytes(png(picture(0, size=(9, 4))))
    with pytest.raises(
        ValueError, match=r"bird/003.png is 9x4 pixels and .*ant/000.png is 6x5; .* or set resize"
    ):
        ImageFolder(path=str(data_folder)).load()
    assert ImageFolder(path=str(data_folder), resize=7).load().image_shape == (3, 7, 7)


def test_a_damaged_image_is_named(data_folder: Path) -> None:
    write_folder(data_folder, "train", per_class=10)
    file = data_folder / "train" / "bird" / "004.png"
    whole = png(np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8))
    file.write_bytes(whole[:60])
    with pytest.raises(ValueError, match=r"bird/004.png is damaged"):
        ImageFolder(path=str(data_folder)).load()
    file.write_text("not a picture")
    with pytest.raises(ValueError, match=r"bird/004.png is not a readable image"):
        ImageFolder(path=str(data_folder)).load()


def test_other_files_are_left_out_with_a_warning(data_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(data_folder, "train", per_class=10)
    (data_folder / "train" / "ant" / "notes.txt").write_text("")
    with caplog.at_level(logging.WARNING):
        ImageFolder(path=str(data_folder)).load()
    assert "1 files that are not images are skipped" in caplog.text
    assert "notes.txt" in caplog.text


def test_a_class_known_to_test_alone_is_refused(data_folder: Path) -> None:
    write_folder(data_folder, "train", per_class=10)
    (data_folder / "test" / "cow").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"test/cow is not a class of the train folder; its classes are ant, bird"):
        ImageFolder(path=str(data_folder)).load()


def test_an_absent_folder_names_those_searched(data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="pets/train not found") as raised:
        ImageFolder(path="pets", root=str(tmp_path)).load()
    assert str(data_folder) in str(raised.value)
    with pytest.raises(DataNotFoundError, match="pets not found"):
        ImageParquet(path="pets").load()


@pytest.mark.parametrize(("source", "absent"), [(ImageFolder, "pets/train"), (ImageParquet, "pets")])
def test_an_absent_folder_given_by_its_full_path_names_no_other(
    source: type[ImageFolder | ImageParquet], absent: str, data_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataNotFoundError, match=f"{tmp_path / absent} not found; put the images") as raised:
        source(path=str(tmp_path / "pets"), root=str(tmp_path / "root")).load()
    assert str(data_folder) not in str(raised.value)
    assert "root" not in str(raised.value).replace(str(tmp_path), "")


def test_a_folder_that_is_searched_once_is_named_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError) as raised:
        ImageFolder(path="pets", root=str(tmp_path)).load()
    assert str(raised.value).count(f"{tmp_path},") == 1


def test_parquet_files_are_read_in_the_order_of_their_names(data_folder: Path) -> None:
    folder = data_folder / "birds"
    write_parquet(folder / "train-00001-of-00002.parquet", cells(20, first=20), np.arange(20) % 2)
    write_parquet(folder / "train-00000-of-00002.parquet", cells(20), np.arange(20) % 2)
    write_parquet(folder / "test-00000-of-00001.parquet", cells(5, first=100), np.arange(5) % 2)
    write_parquet(folder / "validation-00000-of-00001.parquet", cells(7, first=200), np.arange(7) % 2)
    published = ImageParquet(path="birds").read()
    np.testing.assert_array_equal(published.train.images, expected(list(range(40))))
    np.testing.assert_array_equal(published.test.images, expected(list(range(100, 105))))
    assert published.train.row_ids.tolist() == list(range(40))
    assert published.classes == ("0", "1")


def test_parquet_columns_and_classes_can_be_named_and_validation_serves_as_test(data_folder: Path) -> None:
    plain = [png(picture(i)) for i in range(20)]
    columns = {"image": "picture", "label": "kind"}
    write_parquet(data_folder / "train.parquet", plain, np.arange(20) % 2, **columns)
    write_parquet(
        data_folder / "validation.parquet", plain[:3], np.array([1, 1, 0], dtype=np.int8), **columns
    )
    source = ImageParquet(
        path=str(data_folder), image_column="picture", label_column="kind", classes=("jay", "owl")
    )
    data = source.load()
    assert data.classes == ("jay", "owl")
    assert data.test.labels.tolist() == [1, 1, 0]


def damaged_image(images: list[Any], labels: list[Any]) -> None:
    images[7] = {"bytes": b"GIF89a no more", "path": ""}


def absent_image(images: list[Any], labels: list[Any]) -> None:
    images[7] = {"bytes": None, "path": "elsewhere.png"}


def negative_label(images: list[Any], labels: list[Any]) -> None:
    labels[7] = -1


def absent_label(images: list[Any], labels: list[Any]) -> None:
    labels[7] = None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged_image, r"train.parquet, row 7, column img is (not a readable image|damaged)"),
        (absent_image, r"train.parquet, row 7, column img contains NoneType; it must contain the bytes"),
        (negative_label, r"train.parquet, row 7 has label -1; it must lie in 0 and above"),
        (absent_label, r"train.parquet has column label of type .*; it must contain an integer in every row"),
    ],
)
def test_damaged_parquet_rows_are_named(
    data_folder: Path, damage: Callable[[list[Any], list[Any]], None], message: str
) -> None:
    images, labels = cells(20), [row % 2 for row in range(20)]
    damage(images, labels)
    write_parquet(data_folder / "train.parquet", images, labels)
    with pytest.raises(ValueError, match=message):
        ImageParquet(path=str(data_folder)).load()


def test_labels_beyond_the_training_classes_are_named_with_their_file(data_folder: Path) -> None:
    write_parquet(data_folder / "train.parquet", cells(20), np.arange(20) % 2)
    write_parquet(data_folder / "test.parquet", cells(4), [0, 1, 0, 2])
    with pytest.raises(ValueError, match=r"test.parquet, row 3 has label 2; it must lie in 0 ... 1"):
        ImageParquet(path=str(data_folder)).load()


def test_a_missing_column_or_part_is_named(data_folder: Path) -> None:
    write_parquet(data_folder / "other.parquet", cells(4), [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"has no train\*.parquet"):
        ImageParquet(path=str(data_folder)).load()
    write_parquet(data_folder / "train.parquet", cells(20), np.arange(20) % 2)
    with pytest.raises(ValueError, match=r"train.parquet has no readable column 'image'"):
        ImageParquet(path=str(data_folder), image_column="image").load()
    (data_folder / "train.parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match=r"train.parquet has no readable column 'label'"):
        ImageParquet(path=str(data_folder)).load()


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


def test_links_to_absent_files_are_refused_and_counted(data_folder: Path) -> None:
    write_folder(data_folder, "train", per_class=10)
    for i in range(10):
        (data_folder / "train" / "ant" / f"link{i}.png").symlink_to(data_folder / "store" / f"{i}")
    message = r"10 of 20 files have no content on this machine, the first is .*ant/link0.png: .*dvc pull"
    with pytest.raises(ValueError, match=message):
        ImageFolder(path=str(data_folder)).load()


def test_a_class_folder_that_is_a_link_to_nothing_is_refused(data_folder: Path) -> None:
    write_folder(data_folder, "train", per_class=10)
    (data_folder / "train" / "cow").symlink_to(data_folder / "absent")
    with pytest.raises(ValueError, match=r"1 of 3 files have no content .* the first is .*train/cow"):
        ImageFolder(path=str(data_folder)).load()


@pytest.mark.parametrize(
    "pointer", ["version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "/annex/objects/SHA256E-s9--0.png\n"]
)
def test_pointers_to_files_that_were_not_fetched_are_refused(data_folder: Path, pointer: str) -> None:
    write_folder(data_folder, "train", per_class=10)
    (data_folder / "train" / "ant" / "004.png").write_text(pointer)
    with pytest.raises(ValueError, match=r"1 of 10 files have no content .*ant/004.png.*git lfs pull"):
        ImageFolder(path=str(data_folder)).load()
    (data_folder / "train.parquet").write_text(pointer)
    with pytest.raises(ValueError, match=r"1 of 1 files have no content .*train.parquet"):
        ImageParquet(path=str(data_folder)).load()


def test_linked_files_and_folders_are_read(data_folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "store", "train", per_class=10)
    (data_folder / "train" / "ant").mkdir(parents=True)
    (data_folder / "train" / "ant" / "more").symlink_to(tmp_path / "store" / "train" / "ant")
    (data_folder / "train" / "bird").symlink_to(tmp_path / "store" / "train" / "bird")
    (data_folder / "train" / "ant" / "one.png").symlink_to(tmp_path / "store" / "train" / "bird" / "000.png")
    published = ImageFolder(path=str(data_folder), test_fraction=0.1).read()
    rows = len(published.train) + len(published.test)
    assert (published.classes, rows) == (("ant", "bird"), 21)


def test_a_link_to_its_own_folder_is_refused(data_folder: Path) -> None:
    write_folder(data_folder, "train", per_class=10)
    (data_folder / "train" / "ant" / "again").symlink_to(data_folder / "train")
    with pytest.raises(ValueError, match=r"ant/again/ant is a link to a folder that contains it"):
        ImageFolder(path=str(data_folder)).load()


def test_what_other_programs_leave_is_no_class_and_no_image(
    data_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(data_folder, "train", per_class=10)
    plain = ImageFolder(path=str(data_folder)).load()
    ant = data_folder / "train" / "ant"
    for folder in (ant / ".ipynb_checkpoints", ant / "__MACOSX", data_folder / "train" / "__MACOSX" / "ant"):
        folder.mkdir(parents=True)
        (folder / "000-checkpoint.png").write_bytes((ant / "000.png").read_bytes())
    (data_folder / "train" / ".ipynb_checkpoints").mkdir()
    (ant / "._000.png").write_bytes(b"\0\5\x16\7 not an image")
    with caplog.at_level(logging.WARNING):
        data = ImageFolder(path=str(data_folder)).load()
    assert data.fingerprint == plain.fingerprint
    assert f"3 hidden files and folders are skipped; the first is {ant / '._000.png'}" in caplog.text


def test_images_beside_the_class_folders_are_said_to_be_skipped(
    data_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(data_folder, "train", per_class=10)
    (data_folder / "train" / "lost.png").write_bytes(png(picture(0)))
    with caplog.at_level(logging.WARNING):
        assert ImageFolder(path=str(data_folder)).load().classes == ("ant", "bird")
    assert "1 images in no class folder are skipped; the first is" in caplog.text


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


def test_labels_that_start_at_one_get_a_hint(data_folder: Path) -> None:
    write_parquet(data_folder / "train.parquet", cells(40), np.arange(40) % 2 + 1)
    hint = "labels start at 0, and these seem to start at 1: subtract 1"
    with pytest.raises(ValueError, match=f"class '0' has 0 rows and there is no test part; .*{hint}"):
        ImageParquet(path=str(data_folder)).load()
    with pytest.raises(ValueError, match=rf"row 1 has label 2; it must lie in 0 \.\.\. 1; {hint}"):
        ImageParquet(path=str(data_folder), classes=("ant", "bird")).load()
    write_parquet(data_folder / "test.parquet", cells(4, first=50), np.arange(4) % 2 + 1)
    with pytest.raises(ValueError, match=f"class '0' has 0 of the 40 training rows used; .*{hint}"):
        ImageParquet(path=str(data_folder)).load()


def test_images_in_several_splits_are_counted(data_folder: Path) -> None:
    write_folder(data_folder, "train", per_class=20)
    write_folder(data_folder, "test", per_class=4, seed=100)
    source = ImageFolder(path=str(data_folder), calib_fraction=0.0)
    data = source.load()
    assert shared_images(data) == []
    ant, bird = (data_folder / "test" / name for name in ("ant", "bird"))
    train, val = (next(iter(split.row_ids)) for split in (data.train, data.val))  # rows 0 to 19 are ants 1000 to 1019
    assert max(train, val) < 20
    (ant / "001.png").write_bytes(png(picture(1000 + train)))
    (bird / "002.png").write_bytes(png(picture(1000 + train)))
    (ant / "003.png").write_bytes(png(picture(1000 + val)))
    assert shared_images(source.load()) == [
        f"image_folder: 2 of 8 test rows have the same image as a train row, 1 of them with another label "
        f"(test row 1 and train row {train})",
        f"image_folder: 1 of 8 test rows have the same image as a val row (test row 3 and val row {val})",
    ]
