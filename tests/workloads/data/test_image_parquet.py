"""Images in Parquet files: order, columns, labels, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import cells, expected, picture, png, write_parquet

from pruneyard.workloads.data.sources.image_parquet import ImageParquet


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


def test_a_hub_s_folder_is_read_with_its_data_folder_column_image_and_names_as_labels(data_folder: Path) -> None:
    names = np.array(["owl", "jay"] * 10, dtype=object)
    (data_folder / "birds" / "data").mkdir(parents=True)
    write_parquet(data_folder / "birds" / "data" / "train-00000-of-00001.parquet", cells(20), names, image="image")
    write_parquet(data_folder / "birds" / "data" / "test-00000-of-00001.parquet", cells(2), names[:2], image="image")
    published = ImageParquet(path="birds").read()
    assert published.classes == ("jay", "owl")
    assert published.train.labels.tolist() == [1, 0] * 10
    assert published.test.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(published.train.images, expected(list(range(20))))


def test_a_name_that_is_no_class_is_refused_with_its_row(data_folder: Path) -> None:
    write_parquet(data_folder / "train.parquet", cells(4), np.array(["owl", "jay", "owl", "jay"], dtype=object))
    write_parquet(data_folder / "test.parquet", cells(2), np.array(["jay", "elk"], dtype=object))
    with pytest.raises(ValueError, match=r"test.parquet, row 1 has label 'elk'; it must be one of jay, owl$"):
        ImageParquet(path=str(data_folder)).read()


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
        (negative_label, r"train.parquet, row 7 has label -1; it must lie in 0 ... 1"),
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
