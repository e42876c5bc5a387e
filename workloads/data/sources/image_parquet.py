"""Images in Parquet files: PATH/train*.parquet and PATH/test*.parquet, as dataset hubs export them.

The files may also lie in PATH/data. The image column contains encoded images (PNG, JPEG), as bytes or as a struct with a field
`bytes`. It is called `img`, or `image` where there is no such column. The label column contains integers, or the names of the
classes. Integers get the names that the metadata of the files declare for a ClassLabel, or else `dataset_infos.json` or
`README.md` in PATH. Test rows come from test*.parquet, otherwise from validation*.parquet, otherwise they are held out. A folder
without train*.parquet cannot be trained on, but it can be a set of out-of-distribution inputs.
Rows are numbered through the files in the order of their names. Images are turned upright as their EXIF orientation says,
decoded once and then cached.

Reference: the Image feature of the Hugging Face datasets library
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from pruneyard.workloads.data.array_cache import cached_array
from pruneyard.workloads.data.dataset import Dataset, PublishedDataset, Split, base_hint
from pruneyard.workloads.data.decoding import decode
from pruneyard.workloads.data.folders import check_fetched
from pruneyard.workloads.data.hub_metadata import declared_classes
from pruneyard.workloads.data.user_images import UserImageSource
from pruneyard.workloads.plugins import Settings

__all__ = ["ImageParquet"]


@dataclass(frozen=True, kw_only=True)
class ImageParquet(UserImageSource):
    revision: ClassVar[int] = 2  # before, EXIF orientations were ignored
    examples: ClassVar[tuple[Settings, ...]] = ({"path": "pictures"},)
    image_column: str = "img"
    label_column: str = "label"
    classes: tuple[str, ...] = ()  # by label; (): as declared, else the names in the column, sorted, or 0 ... its largest number

    def load(self) -> Dataset:
        """Returns all splits, or a data set of test rows only if there are no training files."""
        train, test = self._files()
        if train:
            return super().load()
        rows, classes = self._rows_and_classes(test)
        return self.test_only_dataset(classes, rows)

    def read(self) -> PublishedDataset:
        train_files, test_files = self._files()
        train, classes = self._rows_and_classes(train_files)
        if not test_files:
            return self.hold_out_test(train, classes)
        labels = _read_labels(test_files, self.label_column, classes=classes)
        return PublishedDataset(classes=classes, train=train, test=Split.from_arrays(self._images(test_files), labels))

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Returns the files of training rows and those of test rows."""
        path = os.path.expanduser(self.path)
        folder = self.find(path, put="the images", into=f"{path}/train*.parquet") / path
        train, test, validation = _files_by_split(folder)
        if not (train or test or validation):
            train, test, validation = _files_by_split(folder / "data")
        if not (train or test or validation):
            raise ValueError(
                f"{folder} has no train*.parquet, test*.parquet or validation*.parquet, nor has its folder data; there must be "
                "at least one"
            )
        check_fetched([*train, *(test or validation)])
        return train, test or validation

    def _rows_and_classes(self, files: Sequence[Path]) -> tuple[Split, tuple[str, ...]]:
        """Returns the rows of some files and the class names, which follow from the labels if `classes` is not given."""
        classes = self.classes or _classes_of(files, self.label_column, folders=_folders_of_set(files))
        return Split.from_arrays(self._images(files), _read_labels(files, self.label_column, classes=classes)), classes

    def _encoded_images(self, file: Path) -> "pd.Series[Any]":
        """Returns the column of images; the default `img` gives way to `image` where only that exists."""
        try:
            return _read_column(file, self.image_column)
        except ValueError:
            if self.image_column != "img":
                raise
            try:
                return _read_column(file, "image")
            except ValueError as error:
                raise ValueError(f"{error}, nor a column 'img'; name it by image_column") from error

    def _images(self, files: Sequence[Path]) -> npt.NDArray[np.uint8]:
        """Returns the images (N, C, H, W) of all rows of several files."""

        def make() -> npt.NDArray[np.uint8]:
            encoded, names = [], []
            for file in files:
                # One column at a time, so that the other columns are not read into memory.
                images = self._encoded_images(file)
                for row, value in enumerate(images):
                    names.append(f"{file}, row {row}, column {images.name}")
                    encoded.append(_encoded_image(value, names[-1]))
            return decode(encoded, where=names.__getitem__, resize=self.resize)

        return cached_array(make, files=files, options=f"parquet upright {self.image_column} resize={self.resize}")


def _files_by_split(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Returns the files of training, test and validation rows in a folder; the lists are empty if there is no such folder."""
    train, test, validation = (sorted(folder.glob(f"{name}*.parquet")) for name in ("train", "test", "validation"))
    return train, test, validation


def _folders_of_set(files: Sequence[Path]) -> list[Path]:
    """Returns the folders that may describe the data set: that of the files, and the one above if that is called data."""
    folder = files[0].parent
    return [folder, folder.parent] if folder.name == "data" else [folder]


def _classes_of(files: Sequence[Path], column: str, *, folders: Sequence[Path]) -> tuple[str, ...]:
    """Returns the declared names of integer labels, or the names in the label column, sorted, or 0 ... its largest number."""
    values = [_label_values(file, column) for file in files]
    if all(pd.api.types.is_integer_dtype(part) for part in values):
        num_classes = 1 + max((int(part.max()) for part in values if len(part)), default=0)
        declared = declared_classes(files, column, folders=folders)
        # Classes after the largest label of the training rows have no rows to learn from.
        return declared[:num_classes] or tuple(str(label) for label in range(num_classes))
    return tuple(sorted({str(name) for part in values for name in part}))


def _read_labels(files: Sequence[Path], column: str, *, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Returns the labels (N,) of several files. Raises `ValueError` that names file and row of a label that is no class."""
    parts = []
    for file in files:
        values = _label_values(file, column)
        if pd.api.types.is_integer_dtype(values):
            labels, shown, allowed = values.to_numpy(dtype=np.int64), values, f"lie in 0 ... {len(classes) - 1}"
        else:
            position = {name: label for label, name in enumerate(classes)}
            labels, shown = np.array([position.get(name, -1) for name in values], dtype=np.int64), values.map(repr)
            allowed = f"be one of {', '.join(classes)}"
        wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(wrong):
            hint = base_hint(labels) if shown is values else ""
            raise ValueError(f"{file}, row {wrong[0]} has label {shown.iloc[wrong[0]]}; it must {allowed}{hint}")
        parts.append(labels)
    return np.concatenate(parts)


def _label_values(file: Path, column: str) -> "pd.Series[Any]":
    """Returns the label column. Raises `ValueError` unless it contains an integer in every row, or a name in every row."""
    values = _read_column(file, column)
    # A column of numbers with missing labels is read as floats.
    if not pd.api.types.is_integer_dtype(values) and not all(isinstance(value, str) for value in values):
        raise ValueError(
            f"{file} has column {column} of type {values.dtype}; it must contain an integer in every row, or a name in every row"
        )
    return values


def _read_column(file: Path, name: str) -> "pd.Series[Any]":
    try:
        return pd.read_parquet(file, columns=[name])[name]
    except (KeyError, OSError, ValueError) as error:
        reason = str(error).replace("\n", "; ")
        raise ValueError(f"{file} has no readable column {name!r}: {reason}") from error


def _encoded_image(value: Any, where: str) -> bytes:
    """Returns the encoded image of one cell."""
    # The Image feature is a struct of `bytes` and `path`.
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(encoded, bytes):
        raise ValueError(
            f"{where} contains {type(encoded).__name__}; it must contain the bytes of an encoded image"
        )
    return encoded
