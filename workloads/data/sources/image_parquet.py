"""Pictures inside Parquet files: PATH/train*.parquet and PATH/test*.parquet, as image hubs export them.

The image column holds encoded pictures (PNG, JPEG), as bytes or as a struct with a field `bytes`; the label
column holds integers. Test rows are those of test*.parquet, else of validation*.parquet, else held out. A folder
without train*.parquet has nothing to train on, but can be a set of unknown inputs.
Rows are numbered through the files in the order of their names. Pictures are decoded once and then cached.

Reference: the Image feature of the Hugging Face datasets library
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pruneyard.workloads.data.array_cache import cached_array
from pruneyard.workloads.data.dataset import Dataset, Published, Split
from pruneyard.workloads.data.decoding import decode
from pruneyard.workloads.data.pictures import OwnPictures

__all__ = ["ImageParquet"]


@dataclass(frozen=True, kw_only=True)
class ImageParquet(OwnPictures):
    image_column: str = "img"
    label_column: str = "label"
    classes: tuple[str, ...] = ()  # names by label; () takes 0 ... the largest label, of training rows if there are any

    def load(self) -> Dataset:
        """Only test rows, where there are no others."""
        train, held = self._files()
        if train:
            return super().load()
        rows, classes = self._first_rows(held)
        return self.tested_only(classes, rows)

    def read(self) -> Published:
        files, held = self._files()
        train, classes = self._first_rows(files)
        if not held:
            return self.hold_out_test(train, classes)
        labels = _labels(held, self.label_column, num_classes=len(classes))
        return Published(classes=classes, train=train, test=Split.from_arrays(self._images(held), labels))

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Of training and of test rows."""
        folder = self.find(self.path, put=f"the pictures into {self.path}/train*.parquet") / self.path
        train, test, validation = (sorted(folder.glob(f"{name}*.parquet")) for name in ("train", "test", "validation"))
        if not (train or test or validation):
            raise ValueError(
                f"{folder} has no train*.parquet, and no test*.parquet or validation*.parquet; there must be at least one"
            )
        return train, test or validation

    def _first_rows(self, files: Sequence[Path]) -> tuple[Split, tuple[str, ...]]:
        """Rows whose labels say which classes there are, where their names are not given."""
        labels = _labels(files, self.label_column, num_classes=len(self.classes) or None)
        classes = self.classes or tuple(str(label) for label in range(int(labels.max(initial=0)) + 1))
        return Split.from_arrays(self._images(files), labels), classes

    def _images(self, files: Sequence[Path]) -> npt.NDArray[np.uint8]:
        """(N, C, H, W) of all rows of several files."""

        def make() -> npt.NDArray[np.uint8]:
            encoded, names = [], []
            for file in files:
                for row, value in enumerate(_column(file, self.image_column)):
                    names.append(f"{file}, row {row}, column {self.image_column}")
                    encoded.append(_bytes(value, names[-1]))
            return decode(encoded, where=names.__getitem__, resize=self.resize)

        return cached_array(make, files=files, options=f"parquet {self.image_column} resize={self.resize}")


def _labels(files: Sequence[Path], column: str, *, num_classes: int | None) -> npt.NDArray[np.int64]:
    """(N,) labels of several files; raises `ValueError` naming file and row of one that is no class."""
    parts = []
    for file in files:
        values = _column(file, column)
        if not pd.api.types.is_integer_dtype(values):
            raise ValueError(
                f"{file} has column {column} of type {values.dtype}; it must hold integers in every row"
            )
        labels = values.to_numpy(dtype=np.int64)
        wrong = np.flatnonzero((labels < 0) | (labels >= (num_classes or np.inf)))
        if len(wrong):
            allowed = f"0 ... {num_classes - 1}" if num_classes else "0 and above"
            raise ValueError(f"{file}, row {wrong[0]} has label {labels[wrong[0]]}; it must lie in {allowed}")
        parts.append(labels)
    return np.concatenate(parts)


def _column(file: Path, name: str) -> "pd.Series[Any]":
    try:
        return pd.read_parquet(file, columns=[name])[name]
    except (KeyError, OSError, ValueError) as error:
        reason = str(error).replace("\n", "; ")
        raise ValueError(f"{file} has no column {name!r} that can be read: {reason}") from error


def _bytes(value: Any, where: str) -> bytes:
    """The encoded picture of one cell."""
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(encoded, bytes):
        raise ValueError(
            f"{where} holds {type(encoded).__name__}; it must hold the bytes of an encoded picture"
        )
    return encoded
