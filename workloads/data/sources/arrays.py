"""Your own arrays in a file (.npz or safetensors): x and y, or x_train, y_train and those of other splits.

uint8 arrays of three or four axes are images (N, H, W) or (N, C, H, W), which keep their 256 values. All other numbers are
features, float32 (N, F) or (N, C, ...), standardised with the mean and the standard deviation of the training rows. Labels are
classes: whole numbers or text, in any range, or positions in `classes`. A split that the file has is taken as it is; the others
are cut from the training rows.

Reference: https://numpy.org/doc/stable/reference/generated/numpy.savez.html
"""

import difflib
import json
import logging
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pruneyard.workloads.data.array_splits import PARTS, splits_of
from pruneyard.workloads.data.dataset import Dataset, PublishedDataset
from pruneyard.workloads.data.folders import check_fetched
from pruneyard.workloads.data.user_files import UserFileSource
from pruneyard.workloads.plugins import Settings

__all__ = ["Arrays"]

logger = logging.getLogger(__name__)

CLASSES = "classes"  # the array, or the entry of a safetensors file's metadata, that names the classes

Stored = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class Arrays(UserFileSource):
    examples: ClassVar[tuple[Settings, ...]] = ({"path": "arrays.npz"},)
    classes: tuple[str, ...] = ()  # names by label; (): the array `classes` of the file, or else the labels themselves
    channels: Literal["first", "last"] = "first"  # the axis of the colours of images
    standardise: bool = True  # features; images are always normalised

    def read(self) -> PublishedDataset:
        file = self.found(put="a .npz or .safetensors file")
        check_fetched([file])
        if file.suffix not in (".npz", ".safetensors"):
            raise ValueError(f"path is {self.path!r}; it must be a file that ends in .npz or .safetensors")
        stored = _read_npz(file) if file.suffix == ".npz" else _read_safetensors(file)
        arrays = {name.lower(): array for name, array in stored.items()}
        classes = self.classes or tuple(str(name) for name in arrays.pop(CLASSES, np.array([])).tolist())
        inputs, labels = _by_split(arrays, file)
        ends = {part: "" if part == "train" and "x" in arrays else f"_{part}" for part in inputs}
        names = {part: (f"{file}: x{end}", f"{file}: y{end}") for part, end in ends.items()}
        splits, classes = splits_of(inputs, labels, names=names, classes=classes, channels=self.channels)
        return self.published(splits, classes)

    def load(self) -> Dataset:
        """Reads, checks and splits the data."""
        data = super().load()
        if data.pixels or self.standardise:
            return data
        return replace(data, mean=(0.0,) * len(data.mean), std=(1.0,) * len(data.std))


def _read_npz(file: Path) -> Stored:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    # A file that is no archive is taken for a pickle, which is refused too.
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = "arrays of Python objects are not read, save text with dtype=str" if "pickle" in str(error) else str(error)
        raise ValueError(f"{file} cannot be read as .npz: {reason}") from error


def _read_safetensors(file: Path) -> Stored:
    try:
        with safe_open(file, framework="numpy") as opened:
            stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            names = json.loads((opened.metadata() or {}).get(CLASSES, "[]"))
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    return stored | ({CLASSES: np.array(names, dtype=str)} if names else {})


def _by_split(arrays: Stored, file: Path) -> tuple[Stored, Stored]:
    """Returns inputs and labels by split. Raises `ValueError` for an array without its partner, or with an unknown split."""
    names = {"x": "train", "y": "train"} if {"x", "y"} & arrays.keys() else {}
    names |= {f"{kind}_{part}": part for kind in "xy" for part in PARTS if f"{kind}_train" not in names or part != "train"}
    listed = f"it has {', '.join(arrays) or 'no arrays'}; they must be x and y, or x_train and y_train, and those of other splits"
    for name in arrays:
        if name not in names and name.startswith(("x_", "y_")):
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{file}: {name} names no split, which are {', '.join(PARTS)}{hint}")
    if "x" in arrays and "x_train" in arrays:
        raise ValueError(f"{file}: x and x_train are the same split; {listed}")
    unread = [name for name in arrays if name not in names]
    inputs = {part: arrays[name] for name, part in names.items() if name in arrays and name.startswith("x")}
    labels = {part: arrays[name] for name, part in names.items() if name in arrays and name.startswith("y")}
    for part in PARTS:
        if (part in inputs) != (part in labels):
            there, missing = ("x", "y") if part in inputs else ("y", "x")
            raise ValueError(f"{file}: {there} of {part} has no {missing}; {listed}")
    if not inputs:
        raise ValueError(f"{file}: no inputs are found; {listed}")
    if unread:
        logger.warning("%s: %s %s not read", file, ", ".join(unread), "is" if len(unread) == 1 else "are")
    return inputs, labels
