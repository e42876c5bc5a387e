"""Arrays of inputs and labels that are handed over from Python, as the content of a file that `arrays` reads."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from pruneyard.workloads.data.array_splits import PARTS, Array, splits_of
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.data.materialised import is_data_set, materialise
from pruneyard.workloads.seeding import seeded_globals
from pruneyard.workloads.user_code.nearest import nearest

CLASSES = "classes"


def _pair(given: Any, part: str) -> tuple[Any, Any]:
    """Returns the inputs and labels of what was handed over for a split."""
    if is_data_set(given):
        return materialise(given, name=f"{type(given).__name__}, {part}")
    if not isinstance(given, tuple | list) or len(given) != 2:
        rule = "it must be a pair of inputs and labels, (X, y), or a map-style data set of PyTorch"
        raise ValueError(f"{part} is a {type(given).__name__}; {rule}")
    return given[0], given[1]


@dataclass(frozen=True, kw_only=True)
class ArrayFile:
    """Checked splits and their classes, with the labels 0 ... C-1."""

    splits: Mapping[str, Split]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, data: Any, *, classes: tuple[str, ...] = (), channels: str = "first") -> "ArrayFile":
        """Returns the content of `(inputs, labels)` or of a map-style data set, or of a mapping from names of splits to these.

        Inputs and labels are what `numpy.asarray` takes, tensors on a GPU too. The mapping may have the names of the classes
        under `classes`; otherwise they are those of the training data set. Data sets are read as those of an import path are.

        classes, channels: as in the table of `arrays`. Raises `ValueError` as `splits_of` and `materialise` do, and for anything
        else.
        """
        parts = dict(data) if isinstance(data, Mapping) else {"train": data}
        stored_classes = tuple(str(name) for name in parts.pop(CLASSES, ()))
        unknown = [name for name in parts if name not in PARTS]
        if unknown:
            rule = f"it must be one of {', '.join(PARTS)}, or {CLASSES}{nearest(unknown[0], [*PARTS, CLASSES])}"
            raise ValueError(f"{unknown[0]!r} names no split; {rule}")
        of_train = getattr(parts.get("train"), "classes", ())
        with seeded_globals(0):
            parts = {part: _pair(given, part) for part, given in parts.items()}
        names = {part: (f"X of {part}", f"y of {part}") for part in parts} if isinstance(data, Mapping) else {"train": ("X", "y")}
        inputs, labels = (
            {part: _as_array(pair[index], names[part][index]) for part, pair in parts.items()} for index in (0, 1)
        )
        classes = classes or stored_classes or tuple(str(name) for name in of_train)
        splits, found = splits_of(inputs, labels, names=names, classes=classes, channels=channels)
        return cls(splits=splits, classes=found)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any value, shape, type or class."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for name, array in self._arrays.items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """Returns the content of a safetensors file."""
        return save(self._arrays, metadata={CLASSES: json.dumps(self.classes)})

    @property
    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        found: dict[str, npt.NDArray[Any]] = {}
        for part, split in self.splits.items():
            found[f"x_{part}"] = np.ascontiguousarray(split.images)
            found[f"y_{part}"] = np.ascontiguousarray(split.labels)
        return found


def _as_array(values: Any, name: str) -> Array:
    """Returns what was handed over as an array; a tensor is copied to the CPU. Raises `ValueError` for masked entries."""
    if isinstance(values, np.ma.MaskedArray) and (num_masked := int(np.ma.getmaskarray(values).sum())):
        raise ValueError(f"{name} has masked entries, {num_masked} of {values.size}; fill them in, or leave their rows out")
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.dtype.itemsize < 4:  # NumPy has no bfloat16, and inputs become float32 anyway
            values = values.float()
    return np.asarray(values)
