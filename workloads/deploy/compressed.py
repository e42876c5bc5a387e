"""Compressed weights: CSR, square-block BSR and constant fan-in of a weight, viewed as a matrix (outputs, inputs).

The mask decides which weights are stored, not their values: an active weight that is exactly 0 is stored.
"""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

# Largest first, because `block_size` returns the first size that fits, and larger blocks need fewer indices.
BLOCK_SIZES = (32, 16, 8, 4, 2)
_CSR = (".crow", ".col", ".values")
_BSR = (".block_crow", ".block_col", ".blocks")
_FAN = (".fan_rows", ".fan_columns", ".fan_values")


def csr(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns row starts (O + 1,) and columns (active,) int32, and values (active,) of the weight as an (O, I) matrix."""
    active = mask.reshape(len(mask), -1)
    starts = torch.zeros(len(active) + 1, dtype=torch.int32)
    starts[1:] = active.sum(1).cumsum(0)
    # `nonzero` lists entries row by row, which is the order in which `[active]` picks the values.
    columns = active.nonzero()[:, 1].int()
    return starts, columns, weight.reshape(len(mask), -1)[active].contiguous()


def csr_tensor(weight: Tensor, mask: Tensor) -> Tensor:
    """Returns the weight as torch's sparse CSR matrix (O, I)."""
    starts, columns, values = csr(weight, mask)
    size = (len(mask), mask[0].numel())
    return _sparse(torch.sparse_csr_tensor, [starts, columns, values], size)


def block_size(mask: Tensor) -> int | None:
    """Returns the largest of `BLOCK_SIZES` for which every block is completely active or inactive, and some block is active.

    Returns None if there is no such size.
    """
    matrix = mask.reshape(len(mask), -1)
    for size in BLOCK_SIZES:
        if matrix.shape[0] % size or matrix.shape[1] % size:
            continue
        # (O / size, I / size): number of active weights in each block.
        counts = _blocks(matrix, size).sum((2, 3))
        if counts.any() and bool(((counts == 0) | (counts == size * size)).all()):
            return size
    return None


def bsr_tensor(weight: Tensor, mask: Tensor, size: int) -> Tensor:
    """Returns the weight as torch's sparse BSR matrix (O, I) with blocks of size x size."""
    matrix = mask.reshape(len(mask), -1)
    active = _blocks(matrix, size).any(3).any(2)
    # Only the indices are needed, so the mask of blocks takes the place of the weight.
    starts, columns, _ = csr(active, active)
    values = _blocks(weight.reshape(matrix.shape), size)[active].contiguous()
    return _sparse(torch.sparse_bsr_tensor, [starts, columns, values], matrix.shape)


def fan_in(mask: Tensor) -> int | None:
    """Returns the number of inputs that each neuron keeps, if it is the same for all that keep any; else None."""
    counts = mask.flatten(1).sum(1)
    kept = counts[counts > 0].unique()
    return int(kept) if len(kept) == 1 else None


def regular(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the neurons with inputs (L,) int32, their columns (L, fan-in) int32 and values (L, fan-in) of constant fan-in."""
    size = fan_in(mask)
    assert size is not None, "the neurons have different numbers of inputs"
    starts, columns, values = csr(weight, mask)
    return starts.diff().nonzero().squeeze(1).int(), columns.view(-1, size), values.view(-1, size)


def _blocks(matrix: Tensor, size: int) -> Tensor:
    """Reshapes (O, I) to blocks (O / size, I / size, size, size)."""
    rows, columns = matrix.shape
    return matrix.reshape(rows // size, size, columns // size, size).transpose(1, 2)


def pack_csr(name: str, weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Returns the three tensors of a weight in a file, by name; columns are int16 if they fit."""
    starts, columns, values = csr(weight, mask)
    return dict(
        zip([name + end for end in _CSR], (starts, _narrow(columns, mask[0].numel()), values), strict=True)
    )


def pack_bsr(name: str, weight: Tensor, mask: Tensor, size: int) -> dict[str, Tensor]:
    """Returns the three tensors of a weight in a file as by `pack_csr`, with blocks."""
    matrix = bsr_tensor(weight, mask, size)
    columns = _narrow(matrix.col_indices(), mask[0].numel() // size)
    parts = (matrix.crow_indices(), columns, matrix.values())
    return dict(zip([name + end for end in _BSR], parts, strict=True))


def pack_fan_in(name: str, weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Returns the three tensors of a weight in a file as by `pack_csr`, with a regular index."""
    rows, columns, values = regular(weight, mask)
    return dict(zip([name + end for end in _FAN], (rows, _narrow(columns, mask[0].numel()), values), strict=True))


def pack_bits(name: str, weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Returns the active values in order, and the mask with one bit for each weight, by name."""
    bits = torch.from_numpy(np.packbits(mask.numpy()))
    return {f"{name}.bits": bits, f"{name}.values": weight[mask]}


def unpack(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns weights and masks from the tensors of a file, for every way of packing; `shapes` are those of the model.

    Raises `ValueError` for indices outside a weight, and for tensors that the model does not have.
    """
    weights, masks, used = {}, {}, set()
    for name, shape in shapes.items():
        # Buffers and dense weights are stored under their own names: the empty ending.
        parts = {end for end in (*_CSR, *_BSR, *_FAN, ".bits", ".mask", "") if name + end in tensors}
        used |= {name + end for end in parts}
        if "" in parts:
            weights[name] = tensors[name]
            if ".mask" in parts:
                masks[name] = tensors[f"{name}.mask"]
        elif parts >= set(_CSR):
            weights[name], masks[name] = _from_csr([tensors[name + end] for end in _CSR], shape)
        elif parts >= set(_BSR):
            weights[name], masks[name] = _from_bsr([tensors[name + end] for end in _BSR], shape)
        elif parts >= set(_FAN):
            weights[name], masks[name] = _from_fan_in([tensors[name + end] for end in _FAN], shape)
        elif parts >= {".bits", ".values"}:
            weights[name], masks[name] = _from_bits(tensors[f"{name}.bits"], tensors[f"{name}.values"], shape)
    if unknown := sorted(tensors.keys() - used):
        raise ValueError(f"the file has {', '.join(unknown[:5])}, which the model does not have")
    return weights, masks


def _from_csr(parts: list[Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    matrix = _sparse(torch.sparse_csr_tensor, parts, (shape[0], shape[1:].numel()))
    # A stored weight may be exactly 0, so the mask comes from the indices and not from `values != 0`.
    active = _sparse(torch.sparse_csr_tensor, [*parts[:2], torch.ones_like(parts[2])], matrix.shape)
    return matrix.to_dense().reshape(shape), active.to_dense().bool().reshape(shape)


def _from_bsr(parts: list[Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    matrix = _sparse(torch.sparse_bsr_tensor, parts, (shape[0], shape[1:].numel()))
    # See `_from_csr`.
    active = _sparse(torch.sparse_bsr_tensor, [*parts[:2], torch.ones_like(parts[2])], matrix.shape)
    return matrix.to_dense().reshape(shape), active.to_dense().bool().reshape(shape)


def _from_fan_in(parts: list[Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    rows, columns, values = parts
    if columns.ndim != 2 or columns.shape != values.shape or len(columns) != len(rows):
        raise ValueError("the index of a weight differs in size from its values")
    if not len(rows) or int(rows[0]) < 0 or int(rows[-1]) >= shape[0] or bool((rows.diff() <= 0).any()):
        raise ValueError("the indices of a weight are damaged: its rows must rise within its outputs")
    counts = torch.zeros(shape[0], dtype=torch.int32).index_fill(0, rows.long(), columns.shape[1])
    starts = nn.functional.pad(counts.cumsum(0), (1, 0))
    return _from_csr([starts, columns.flatten(), values.flatten()], shape)


def _sparse(make: Callable[..., Tensor], parts: list[Tensor], size: tuple[int, ...]) -> Tensor:
    starts, columns, values = parts
    try:
        with warnings.catch_warnings():
            # torch warns at the first sparse tensor of a process.
            warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta", UserWarning)
            return make(starts.int(), columns.int(), values, size, check_invariants=True)
    except RuntimeError as error:
        raise ValueError(f"the indices of a weight are damaged: {error}") from error


def _from_bits(bits: Tensor, values: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    if bits.dtype != torch.uint8 or bits.numel() != (shape.numel() + 7) // 8:
        raise ValueError("the number of mask bits of a weight differs from its size")
    # `packbits` fills the last byte with zeros; `count` drops them.
    flat = np.unpackbits(bits.numpy(), count=shape.numel()).astype(bool)
    mask = torch.from_numpy(flat).reshape(shape)
    if int(mask.sum()) != values.numel():
        raise ValueError("the number of active mask bits of a weight differs from its number of values")
    weight = torch.zeros(shape, dtype=values.dtype)
    weight[mask] = values
    return weight, mask


def _narrow(columns: Tensor, num_columns: int) -> Tensor:
    # Only in files: `_sparse` widens the indices again, as torch's sparse tensors need int32 or int64.
    return columns.short() if num_columns <= torch.iinfo(torch.int16).max else columns
