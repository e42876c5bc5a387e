"""Images in Parquet files: PATH/train*.parquet and PATH/test*.parquet, as dataset hubs export them.

The image column contains encoded images (PNG, JPEG), as bytes or as a struct with a field `bytes`; the label column contains
integers. Test rows come from test*.parquet, otherwise from validation*.parquet, otherwise they are held out. A folder without
train*.parquet cannot be trained on, but it can be a set of out-of-distribution inputs.
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
from pruneyard.workloads.data.user_images import UserImageSource
from pruneyard.workloads.plugins import Settings

__all__ = ["ImageParquet"]


@dataclass(frozen=True, kw_only=True)
class ImageParquet(UserImageSource):
    revision: ClassVar[int] = 2  # before, EXIF orientations were ignored
    examples: ClassVar[tuple[Settings, ...]] = ({"path": "pictures"},)
    image_column: str = "img"
    label_column: str = "label"
    classes: tuple[str, ...] = ()  # names by label; (): 0 ... the largest label, of the training rows if there are any

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
        labels = _read_labels(test_files, self.label_column, num_classes=len(classes))
        return PublishedDataset(classes=classes, train=train, test=Split.from_arrays(self._images(test_files), labels))

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Returns the files of training rows and those of test rows."""
        path = os.path.expanduser(self.path)
        folder = self.find(path, put=f"the images into {path}/train*.parquet") / path
        train, test, validation = (sorted(folder.glob(f"{name}*.parquet")) for name in ("train", "test", "validation"))
        if not (train or test or validation):
            raise ValueError(
                f"{folder} has no train*.parquet, test*.parquet or validation*.parquet; there must be at least one"
            )
        check_fetched([*train, *(test or validation)])
        return train, test or validation

    def _rows_and_classes(self, files: Sequence[Path]) -> tuple[Split, tuple[str, ...]]:
        """Returns the rows of some files and the class names, which follow from the labels if `classes` is not given."""
        labels = _read_labels(files, self.label_column, num_classes=len(self.classes) or None)
        classes = self.classes or tuple(str(label) for label in range(int(labels.max(initial=0)) + 1))
        return Split.from_arrays(self._images(files), labels), classes

    def _images(self, files: Sequence[Path]) -> npt.NDArray[np.uint8]:
        """Returns the images (N, C, H, W) of all rows of several files."""

        def make() -> npt.NDArray[np.uint8]:
            encoded, names = [], []
            for file in files:
                # One column at a time, so that the other columns are not read into memory.
                for row, value in enumerate(_read_column(file, self.image_column)):
                    names.append(f"{file}, row {row}, column {self.image_column}")
                    encoded.append(_encoded_image(value, names[-1]))
            return decode(encoded, where=names.__getitem__, resize=self.resize)

        return cached_array(make, files=files, options=f"parquet upright {self.image_column} resize={self.resize}")


def _read_labels(files: Sequence[Path], column: str, *, num_classes: int | None) -> npt.NDArray[np.int64]:
    """Returns the labels (N,) of several files. Raises `ValueError` that names file and row of a label that is no class."""
    parts = []
    for file in files:
        values = _read_column(file, column)
        # A column with missing labels is read as floats, which are refused here too.
        if not pd.api.types.is_integer_dtype(values):
            raise ValueError(
                f"{file} has column {column} of type {values.dtype}; it must contain an integer in every row"
            )
        labels = values.to_numpy(dtype=np.int64)
        wrong = np.flatnonzero((labels < 0) | (labels >= (num_classes or np.inf)))
        if len(wrong):
            allowed = f"0 ... {num_classes - 1}" if num_classes else "0 and above"
            raise ValueError(f"{file}, row {wrong[0]} has label {labels[wrong[0]]}; it must lie in {allowed}{base_hint(labels)}")
        parts.append(labels)
    return np.concatenate(parts)


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
