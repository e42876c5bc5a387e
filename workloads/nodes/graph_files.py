"""Reads graphs from npz files: CSR arrays of edges and features, labels, optional names and splits. Never unpickles."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pruneyard.workloads import plugins
from pruneyard.workloads.data.dataset import base_hint
from pruneyard.workloads.data.folders import cache_folder, not_found
from pruneyard.workloads.nodes.graph import Graph, GraphSource, Nodes, rows_summing_to_one, undirected

PARTS = ("data", "indices", "indptr", "shape")
WANTED = "an npz file with the arrays adj_* and attr_* (data, indices, indptr and shape of a CSR matrix each) and labels"
MASKS = {"train": "train_mask", "val": "val_mask", "test": "test_mask"}


@dataclass(frozen=True, kw_only=True)
class GraphFile(GraphSource, ABC):
    """Base class of sources that read one npz file from the first of several folders that contains it."""

    # Not part of the identity, because the place of a file does not change its content.
    root: str | None = field(default=None, metadata={"identity": False})  # searched before the other folders
    normalize: bool = True  # divide every node's features by their sum

    @property
    @abstractmethod
    def candidates(self) -> tuple[str, ...]:
        """Possible paths of the file, relative to a folder; the first existing one is read."""

    def folders(self) -> list[Path]:
        """Returns the searched folders: `root` and `$PRUNEYARD_DATA` if set, and `data` in the cache folder."""
        named = [self.root, os.environ.get("PRUNEYARD_DATA")]
        return [*(Path(name).expanduser() for name in named if name), cache_folder() / "data"]

    def inputs(self) -> tuple[Path, ...]:
        return tuple(folder / name for folder in self.folders() for name in self.candidates)

    def missing(self) -> Exception:
        """Returns the error to raise if no folder has the file."""
        remedy = f"put {WANTED} under one of these, or set root"
        return not_found(self, " or ".join(self.candidates), searched=self.folders(), remedy=remedy)

    def load(self) -> Graph:  # type: ignore[override]
        """Reads and validates the file."""
        paths = [folder / name for folder in self.folders() for name in self.candidates]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise self.missing()
        return read_graph(path, name=plugins.name_of(self), normalize=self.normalize)


def read_graph(path: Path, *, name: str, normalize: bool) -> Graph:
    """Reads one npz file. Raises `ValueError`, naming file and array, for missing, pickled or inconsistent arrays."""
    arrays = _arrays(path)
    adjacency, features = (_matrix(arrays, prefix, path) for prefix in ("adj", "attr"))
    labels = _labels(arrays, path)
    num = len(labels)
    if adjacency.shape != (num, num):
        raise ValueError(
            f"adj of {path} is {adjacency.shape}; it must be ({num}, {num}) because there are {num} labels"
        )
    if features.shape[0] != num or features.shape[1] == 0:
        raise ValueError(
            f"attr of {path} is {features.shape}; it must be ({num}, F) because there are {num} labels"
        )
    if not np.isfinite(features.data).all():
        raise ValueError(f"attr of {path} has numbers that are not finite; every feature must be finite")
    return Graph(
        name=name,
        classes=_classes(arrays, labels, path),
        adjacency=undirected(adjacency),
        features=rows_summing_to_one(features) if normalize else features.astype(np.float32),
        labels=labels,
        published=_published(arrays, num, path),
    )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # npz members are read when they are accessed, so errors of a damaged member arise inside this `try`.
        with np.load(path, allow_pickle=False) as opened:
            return {key: opened[key] for key in opened.files}
    except (ValueError, OSError, BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as npz without unpickling: {error}; it must be {WANTED}"
        ) from error


def _matrix(arrays: Mapping[str, NDArray[Any]], prefix: str, path: Path) -> sparse.csr_array:
    missing = [f"{prefix}_{part}" for part in PARTS if f"{prefix}_{part}" not in arrays]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; it must be {WANTED}")
    data, indices, indptr, shape = (arrays[f"{prefix}_{part}"] for part in PARTS)
    try:
        matrix = sparse.csr_array((data, indices, indptr), shape=tuple(int(size) for size in shape))
        # The constructor does not check every index, and scipy's products do not check them either.
        matrix.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{prefix}_* of {path} are not a CSR matrix: {error}") from error
    matrix.sum_duplicates()
    return matrix


def _labels(arrays: Mapping[str, NDArray[Any]], path: Path) -> NDArray[np.int64]:
    labels = arrays.get("labels")
    if labels is None or labels.ndim != 1 or len(labels) == 0 or not np.issubdtype(labels.dtype, np.integer):
        came = "missing" if labels is None else f"{labels.dtype} {labels.shape}"
        raise ValueError(f"labels of {path} are {came}; they must be integers (N,)")
    if labels.min() < 0:
        raise ValueError(
            f"label of node {int(labels.argmin())} in {path} is {labels.min()}; it must be 0 or more"
        )
    return labels.astype(np.int64)


def _classes(arrays: Mapping[str, NDArray[Any]], labels: NDArray[np.int64], path: Path) -> tuple[str, ...]:
    num = int(labels.max()) + 1
    if "class_names" not in arrays:
        if hint := base_hint(labels):
            raise ValueError(f"labels of {path} lie in 1 ... {num - 1}{hint}, or add class_names")
        return tuple(str(label) for label in range(num))
    names = tuple(str(name) for name in arrays["class_names"].tolist())
    # More names than labels are allowed: a class may have no nodes.
    if len(names) < num or len(set(names)) < len(names):
        raise ValueError(f"class_names of {path} are {', '.join(names)}; there must be at least {num}, all different")
    return names


def _published(arrays: Mapping[str, NDArray[Any]], num: int, path: Path) -> dict[str, Nodes]:
    masks = {split: arrays[key] for split, key in MASKS.items() if key in arrays}
    for split, mask in masks.items():
        if mask.dtype != np.bool_ or mask.shape != (num,):
            raise ValueError(
                f"{MASKS[split]} of {path} is {mask.dtype} {mask.shape}; it must be bool ({num},)"
            )
    return {split: np.flatnonzero(mask) for split, mask in masks.items()}
