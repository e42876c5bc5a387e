"""Reads a .parquet, .npz or .csv file as a table of named columns. Nothing in it is executed or unpickled.

The columns of an .npz file are its arrays; a column of lists, or an array (N, C), holds one number per class and row.
"""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruneyard.workloads.data.artifact_file import fetch_file
from pruneyard.workloads.data.file_states import state_of

SUFFIXES = (".parquet", ".npz", ".csv")


class Table(ABC):
    """The columns of a file, by name. place: the file, for messages."""

    def __init__(self, place: str, names: Sequence[str]) -> None:
        self.place, self.names = place, tuple(names)

    @abstractmethod
    def column(self, name: str) -> NDArray[Any]:
        """Returns a column: (N,) values, or (N, C) numbers if it holds lists. Raises `ValueError` for lists of unequal length."""

    @abstractmethod
    def matrix(self, names: Sequence[str]) -> NDArray[Any]:
        """Returns several columns of numbers side by side, (N, C). Raises `ValueError` for one that holds no numbers."""


class FrameTable(Table):
    """The columns of a Parquet or CSV file."""

    def __init__(self, place: str, frame: pd.DataFrame) -> None:
        super().__init__(place, [str(name) for name in frame.columns])
        self._frame = frame.set_axis(list(self.names), axis=1)

    def column(self, name: str) -> NDArray[Any]:
        values: NDArray[Any] = self._frame[name].to_numpy()
        if values.dtype != object or not len(values) or not isinstance(values[0], np.ndarray | list):
            return values
        lengths = np.array([len(row) if isinstance(row, np.ndarray | list) else -1 for row in values])
        if (lengths != lengths[0]).any():
            row = int((lengths != lengths[0]).argmax())
            found = "no list" if lengths[row] < 0 else f"{lengths[row]} numbers"
            raise ValueError(f"{self.place}: column {name}: row {row} has {found}; it must have {lengths[0]}, as row 0 has")
        return np.stack(values.tolist())

    def matrix(self, names: Sequence[str]) -> NDArray[Any]:
        for name in names:
            if not pd.api.types.is_numeric_dtype(self._frame[name].dtype):
                row = int(pd.to_numeric(self._frame[name], errors="coerce").isna().to_numpy().argmax())
                found = f"row {row} is {self._frame[name].iloc[row]!r}"
                raise ValueError(f"{self.place}: column {name}: {found}; it must be a number")
        return np.asarray(self._frame[list(names)].to_numpy())


class ArraysTable(Table):
    """The arrays of an .npz file."""

    def __init__(self, place: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(place, list(arrays))
        self._arrays = arrays

    def column(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def matrix(self, names: Sequence[str]) -> NDArray[Any]:
        for name in names:
            if self._arrays[name].ndim != 1 or not np.issubdtype(self._arrays[name].dtype, np.number):
                shape, dtype = self._arrays[name].shape, self._arrays[name].dtype
                raise ValueError(f"{self.place}: array {name}: has shape {shape} of {dtype}; it must be (N,) numbers")
        lengths = {name: len(self._arrays[name]) for name in names}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{self.place}: arrays have unequal lengths {lengths}; each must have one number per row")
        return np.stack([self._arrays[name] for name in names], axis=1)


def read_table(path: str) -> Table:
    """Returns the table in a file, a local one or `s3://...`. Raises `ValueError` for a file of another format."""
    file = fetch_file(path)
    # Jobs on one file follow each other, and a large one takes seconds to read.
    return _read(path, file, state_of(file))


@lru_cache(maxsize=1)
def _read(path: str, file: Path, state: tuple[int, ...] | None) -> Table:
    try:
        if file.suffix == ".npz":
            return ArraysTable(path, _arrays(file))
        # The reader of Arrow rounds decimals exactly, so a CSV file gives the numbers that were written to it.
        frame = pd.read_csv(file, engine="pyarrow") if file.suffix == ".csv" else pd.read_parquet(file, engine="pyarrow")
    # Readers raise many types of errors for damaged files; those of Arrow are ValueError or OSError.
    except (ValueError, OSError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path}: cannot be read as a {file.suffix} file: {error}") from error
    return FrameTable(path, frame)


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no archive of arrays; write it with numpy.savez")
    with np.load(file, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}
