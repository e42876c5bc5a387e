"""Images in folders of classes: what is read, skipped and refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
from pictures import expected, picture, png, write_folder

from pruneyard.workloads.data.dataset import DataNotFoundError
from pruneyard.workloads.data.duplicates import shared_images
from pruneyard.workloads.data.sources.image_folder import ImageFolder
from pruneyard.workloads.data.sources.image_parquet import ImageParquet


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


def test_a_relative_path_is_searched_for_in_the_working_folder_first(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(data_folder / "pets", "train", per_class=12)
    write_folder(tmp_path / "here" / "pets", "train", per_class=10)
    for place, num_rows in ((tmp_path / "here", 20), (tmp_path, 24)):
        monkeypatch.chdir(place)
        found = ImageFolder(path="pets").read()
        assert len(found.train) + len(found.test) == num_rows


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
    with pytest.raises(DataNotFoundError, match=r"^path is 'pets'; none of the folders .* has pets/train; put") as raised:
        ImageFolder(path="pets", root=str(tmp_path)).load()
    assert str(data_folder) in str(raised.value)
    with pytest.raises(DataNotFoundError, match=r"^path is 'pets', which is in none of the folders"):
        ImageParquet(path="pets").load()


@pytest.mark.parametrize(("source", "absent"), [(ImageFolder, "pets/train"), (ImageParquet, "pets")])
def test_an_absent_folder_given_by_its_full_path_names_no_other(
    source: type[ImageFolder | ImageParquet], absent: str, data_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataNotFoundError, match=f"{absent}'?(, which)? does not exist; put the images into {tmp_path}") as raised:
        source(path=str(tmp_path / "pets"), root=str(tmp_path / "root")).load()
    assert str(data_folder) not in str(raised.value)
    assert "root" not in str(raised.value).replace(str(tmp_path), "")


def test_a_folder_that_is_searched_once_is_named_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError) as raised:
        ImageFolder(path="pets", root=str(tmp_path)).load()
    assert str(raised.value).count(f"{tmp_path},") == 1


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
