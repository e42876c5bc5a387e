"""Weights that an artifact stores as values and index: under four names each, in place of the weight's own."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from pruneyard.workloads.masks.sparse_index import SparseIndex

_PARTS = ("values", "starts", "columns", "shape")


def encode(name: str, values: Tensor, index: SparseIndex) -> dict[str, Tensor]:
    """Returns the tensors that store a sparse weight: its values, its compressed rows, and its shape."""
    parts = (values, index.starts, index.columns, torch.tensor(index.shape))
    return {f"{name}:{part}": tensor.detach().cpu().clone() for part, tensor in zip(_PARTS, parts, strict=True)}


def decode(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the tensors with all weights in their dense shapes, and the masks of those that were stored sparse.

    Raises `ValueError` for a sparse weight with a missing part, or whose parts do not fit together.
    """
    dense = {name: tensor for name, tensor in tensors.items() if ":" not in name}
    masks: dict[str, Tensor] = {}
    for name in dict.fromkeys(key.partition(":")[0] for key in tensors if ":" in key):
        try:
            values, starts, columns, shape = (tensors[f"{name}:{part}"] for part in _PARTS)
        except KeyError as error:
            raise ValueError(f"{name} is stored sparse, but {error.args[0]} is missing") from None
        sizes = tuple(shape.tolist())
        outputs, inputs = sizes[0], math.prod(sizes[1:])
        fits = len(starts) == outputs + 1 and len(columns) == len(values) == int(starts[-1]) and bool((starts.diff() >= 0).all())
        if not fits or (len(columns) and not 0 <= int(columns.min()) <= int(columns.max()) < inputs):
            raise ValueError(f"{name} is stored sparse, but its values and index do not fit {'x'.join(map(str, sizes))}")
        index = SparseIndex.of_rows(starts, columns, sizes)
        dense[name], masks[name] = index.dense(values), index.mask()
    return dense, masks


def dense_shapes(
    keys: Collection[str], shape_of: Callable[[str], Sequence[int]], read: Callable[[str], Tensor]
) -> dict[str, tuple[int, ...]]:
    """Returns the dense shapes of the tensors in a file, of which only the shapes of sparse weights are read.

    keys, shape_of, read: the names of the stored tensors, their shapes, and their contents.
    """
    names = dict.fromkeys(key.partition(":")[0] for key in keys)
    stored = set(keys)
    return {
        name: tuple(read(f"{name}:shape").tolist()) if f"{name}:shape" in stored else tuple(shape_of(name)) for name in names
    }
