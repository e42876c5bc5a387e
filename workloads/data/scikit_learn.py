"""The data files that scikit-learn contains, read without importing it, which takes a second of CPU time in every process."""

import csv
import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pruneyard.workloads.data.dataset import Split


def read_digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Returns the grey values of `sklearn.datasets.load_digits`, 0 ... 16, shape (1797, 8, 8), and the classes (1797,)."""
    with gzip.open(_data_file("digits.csv.gz"), "rt", encoding="utf-8") as lines:
        rows = np.loadtxt(lines, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def read_table(name: str) -> tuple[Split, tuple[str, ...]]:
    """Returns all rows of a table for classification, such as "wine_data.csv", and the names of its classes."""
    with _data_file(name).open(encoding="utf-8", newline="") as lines:
        _, _, *classes = next(csv.reader(lines))  # the first line has the numbers of rows and of features before them
        rows = np.loadtxt(lines, delimiter=",")
    return Split.from_arrays(rows[:, :-1].astype(np.float32), rows[:, -1].astype(np.int64), pixels=False), tuple(classes)


def _data_file(name: str) -> Path:
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("scikit-learn is not installed; its data files are needed")
    return Path(found.origin).parent / "datasets" / "data" / name
