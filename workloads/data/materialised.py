"""Reads a map-style data set of PyTorch once, item by item, into arrays of inputs and labels."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneyard.workloads.data.array_splits import Array

MEMINFO = Path("/proc/meminfo")
MAX_SHARE = 0.5  # of the memory that is free: splits and batches need some too


def is_data_set(given: Any) -> bool:
    """Returns whether something from Python can be read as a data set. Arrays and frames have its methods too, and a shape."""
    is_data = isinstance(given, tuple | list | str | bytes | Mapping) or hasattr(given, "shape")
    return not is_data and hasattr(given, "__len__") and hasattr(given, "__getitem__")


def materialise(dataset: Any, *, name: str) -> tuple[Array, Array]:
    """Returns inputs (N, ...) and labels (N,) of a data set with `__len__` and `__getitem__`, whose items are (input, label).

    Images of Pillow become uint8 (C, H, W). name: of the data set, for messages.

    Raises `ValueError` for a data set of another form, for items whose shapes differ, and before anything else is read if all
    inputs, at the size of the first, take more than half of the free memory.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(f"{name} is a {type(dataset).__name__}; it must be a map-style data set, with __len__ and __getitem__")
    num_rows = len(dataset)
    if num_rows == 0:
        raise ValueError(f"{name} has no items; it must have at least one")
    items = _items(dataset, name=name)
    first, label = next(items)
    needed, free = first.nbytes * num_rows, _free_bytes()
    if needed > MAX_SHARE * free:
        raise ValueError(
            f"{name} has {num_rows} items of {first.nbytes:,} bytes each, {needed / 2**30:.1f} GiB in all; at most half of the "
            f"{free / 2**30:.1f} GiB of free memory may be used: resize the inputs, or leave items out"
        )
    inputs, labels = np.empty((num_rows, *first.shape), dtype=first.dtype), [label]
    inputs[0] = first
    for row, (values, label) in enumerate(items, start=1):
        if values.shape != first.shape or values.dtype != first.dtype:
            came, allowed = (f"{array.dtype} {array.shape}" for array in (values, first))
            raise ValueError(f"item {row} of {name} is {came}; it must be {allowed} like the first: resize to one shape")
        inputs[row] = values
        labels.append(label)
    return inputs, np.array(labels)


def _items(dataset: Any, *, name: str) -> Iterator[tuple[npt.NDArray[Any], Any]]:
    for row in range(len(dataset)):
        try:
            item = dataset[row]
        except Exception as error:  # whatever the code raises
            raise ValueError(f"item {row} of {name} raised {type(error).__name__}: {error}") from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError(f"item {row} of {name} is a {type(item).__name__}; it must be a pair (input, label)")
        values, label = item
        yield _input(values, f"item {row} of {name}"), _label(label, f"item {row} of {name}")


def _label(label: Any, name: str) -> Any:
    """Returns a label as a number or text. Raises `ValueError` for several elements, such as a one-hot row."""
    is_array = hasattr(label, "item") and hasattr(label, "shape")
    if not is_array and not isinstance(label, tuple | list):
        return label
    shape = tuple(label.shape) if is_array else (len(label),)
    if math.prod(shape) != 1:
        rule = "it must be one class, a whole number or text; of a one-hot row it is the argmax"
        raise ValueError(f"{name} has a label of shape {shape}; {rule}")
    return label.item() if is_array else label[0]


def _input(values: Any, name: str) -> npt.NDArray[Any]:
    if hasattr(values, "getbands"):  # an image of Pillow
        pixels = np.asarray(values)
        if pixels.dtype != np.uint8:
            raise ValueError(f"{name} is an image of mode {values.mode}; it must have 8 bits per channel: convert it to RGB or L")
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} is a {type(values).__name__}; its input must be a tensor, an array or an image")
    return array


def _free_bytes() -> int:
    """Returns the memory that this machine can give without swapping: what is free, and what its caches could give back."""
    if MEMINFO.exists():
        available = next((line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:")), None)
        if available is not None:
            return int(available.split()[1]) * 1024  # the file's kB are KiB
    # Elsewhere than on Linux, or before Linux 3.14.
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
