"""The positions of the stored values of a sparse weight, as compressed rows and as those of its transpose."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

LIMIT = torch.iinfo(torch.int32).max
BLOCK = 1 << 18  # stored entries, about, whose places exist at a time where two indices are compared


@dataclass(frozen=True, eq=False)
class SparseIndex:
    """The places of the entries of a weight that are stored, in row-major order.

    The matrix `(outputs, inputs)` of a weight with more dimensions is the weight flattened from its second dimension on.

    The values themselves are a tensor `(num_active,)` beside it. All tensors are int32: `starts (outputs + 1,)`, `columns
    (num_active,)`, and the same of the transpose, which is computed when first asked for and has the values `values[order]`.
    """

    shape: tuple[int, ...]
    starts: Tensor
    columns: Tensor

    @classmethod
    def of_flat(cls, flat: Tensor, shape: tuple[int, ...]) -> "SparseIndex":
        """Returns the index of entries given by their places `(num_active,)` in the flattened weight, whole numbers, ascending.

        Raises `ValueError` for a matrix with too many rows, columns or stored entries for int32.
        """
        outputs, inputs = _matrix(shape)
        if max(outputs, inputs, len(flat)) > LIMIT:
            raise ValueError(f"a matrix {outputs}x{inputs} with {len(flat)} stored weights exceeds the range of int32")
        bounds = torch.arange(outputs + 1, device=flat.device) * inputs
        starts = torch.searchsorted(flat, bounds.to(flat.dtype), out_int32=True)
        return cls(shape=shape, starts=starts, columns=torch.remainder(flat, max(1, inputs)).int())

    @classmethod
    def of_mask(cls, mask: Tensor) -> "SparseIndex":
        """Returns the index of the True entries of a mask."""
        return cls.of_flat(mask.flatten().nonzero().squeeze(1), tuple(mask.shape))

    @classmethod
    def of_rows(cls, starts: Tensor, columns: Tensor, shape: tuple[int, ...]) -> "SparseIndex":
        """Returns the index with these compressed rows, as a checkpoint stores them."""
        return cls(shape, starts.int(), columns.int())

    @property
    def matrix(self) -> tuple[int, int]:
        """The sizes `(outputs, inputs)` of the weight's matrix."""
        return _matrix(self.shape)

    @property
    def flat(self) -> Tensor:
        """The places of the stored entries in the flattened weight, `(num_active,)` int64, ascending."""
        return self.places.long()

    @property
    def places(self) -> Tensor:
        """Returns the places of `flat`, as int32 if the weight has few enough entries, which halves their memory."""
        return self.places_in_rows(0, self.matrix[0])

    def places_in_rows(self, first: int, last: int) -> Tensor:
        """Returns the places of the entries stored in rows `first` up to `last`, counted from the start of the first one."""
        starts = self.starts[first : last + 1]
        begin, end = int(starts[0]), int(starts[-1])
        return _places(starts, self.columns[begin:end], (last - first, self.matrix[1]))

    def forget_transpose(self) -> None:
        """Frees the transpose, which is computed again when it is next asked for."""
        self.__dict__.pop("_transpose", None)

    @property
    def transposed_starts(self) -> Tensor:
        """The place at which each row of the transpose begins."""
        return self._transpose[0]

    @property
    def transposed_columns(self) -> Tensor:
        """The column of each stored entry of the transpose."""
        return self._transpose[1]

    @property
    def order(self) -> Tensor:
        """The place of each stored entry of the transpose among the stored values."""
        return self._transpose[2]

    @cached_property
    def _transpose(self) -> tuple[Tensor, Tensor, Tensor]:
        from scipy.sparse import csr_array  # takes 0.1 s to import, and only sparse execution needs it

        places = np.arange(self.num_active, dtype=np.int32)
        own = csr_array((places, self.columns.cpu().numpy(), self.starts.cpu().numpy()), shape=self.matrix).tocsc()
        parts = (torch.from_numpy(part.astype(np.int32, copy=False)) for part in (own.indptr, own.indices, own.data))
        starts, columns, order = (part.to(self.columns.device) for part in parts)
        return starts, columns, order

    @property
    def num_active(self) -> int:
        """Number of stored entries."""
        return len(self.columns)

    def numel(self) -> int:
        """Returns the number of entries of the whole weight, as a mask does."""
        return math.prod(self.shape)

    def mask(self) -> Tensor:
        """Returns the mask, True where an entry is stored."""
        return self.dense(torch.ones(self.num_active, dtype=torch.bool, device=self.columns.device))

    def dense(self, values: Tensor) -> Tensor:
        """Returns the weight with these values, zero elsewhere."""
        return values.new_zeros(self.numel()).index_copy_(0, self.flat, values).reshape(self.shape)

    def mover(self, other: "SparseIndex") -> Callable[[Tensor], Tensor]:
        """Returns a function from values to those of another index of the weight.

        They are the same where both store an entry, zero elsewhere. It holds 4 bytes for each entry of the other index.
        """
        if not self.num_active:
            return lambda values: values.new_zeros(other.num_active)
        sources = torch.empty_like(other.columns)  # the place among the own values, -1 where there is none
        for (begin, old), (other_begin, new) in zip(_blocks(self, other), _blocks(other, self), strict=True):
            sources[other_begin : other_begin + len(new)] = _found(old, new, begin)

        def moved(values: Tensor) -> Tensor:
            result = values.new_empty(len(sources))
            for chosen, part in zip(sources.split(BLOCK), result.split(BLOCK), strict=True):
                torch.index_select(values, 0, chosen.clamp(min=0), out=part)
                part.masked_fill_(chosen < 0, 0)
            return result

        return moved

    def to(self, device: torch.device) -> "SparseIndex":
        """Returns the index on a device."""
        if device == self.columns.device:
            return self
        return SparseIndex(self.shape, self.starts.to(device), self.columns.to(device))


Mask = Tensor | SparseIndex
"""Which weights are active: a bool tensor of the weight's shape, or the index of a weight that is stored sparse."""


def full_mask(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns a mask of ones that holds a single number, so that it takes no memory; nothing can be written into it."""
    return torch.ones((), dtype=torch.bool, device=device).expand(shape)


def is_full(mask: object) -> bool:
    """Returns whether this is the mask of ones of a weight of several entries, as `full_mask` makes it."""
    if not isinstance(mask, Tensor) or mask.numel() <= 1:
        return False
    is_single = all(size == 1 or stride == 0 for size, stride in zip(mask.shape, mask.stride(), strict=True))
    return is_single and bool(mask.flatten()[0])


def copy_of(mask: Mask) -> Mask:
    """Returns a mask that shares no memory with another bool tensor; an index or a full mask is never written into."""
    return mask.clone() if isinstance(mask, Tensor) and not is_full(mask) else mask


def union(one: Mask, other: Mask) -> Mask:
    """Returns the mask of the entries that are active in either: an index only if both are."""
    if isinstance(one, SparseIndex) and isinstance(other, SparseIndex):
        return _union(one, other)
    return dense_mask(one) | dense_mask(other)


def dense_mask(mask: Mask) -> Tensor:
    """Returns a mask as a bool tensor of the weight's shape."""
    return mask.mask() if isinstance(mask, SparseIndex) else mask


def _union(one: SparseIndex, other: SparseIndex) -> SparseIndex:
    """Returns the index of the entries that either stores, computed for some rows at a time."""
    num_common = sum(
        int(torch.count_nonzero(_found(old, new, 0) >= 0))
        for (_, old), (_, new) in zip(_blocks(one, other), _blocks(other, one), strict=True)
    )
    if num_common == other.num_active:
        return one
    columns = one.columns.new_empty(one.num_active + other.num_active - num_common)
    counts, end, (outputs, inputs) = [], 0, one.matrix
    for first, last in _row_blocks(one, other):
        old, new = one.places_in_rows(first, last), other.places_in_rows(first, last)
        places = sort(torch.cat([old, new[_found(old, new, 0) < 0]]))
        bounds = torch.arange(1, last - first + 1, device=places.device) * inputs
        counts.append(torch.searchsorted(places, bounds.to(places.dtype), out_int32=True) + end)
        columns[end : end + len(places)] = torch.remainder(places, max(1, inputs))
        end += len(places)
    starts = torch.cat([one.starts.new_zeros(1), *counts])
    assert len(starts) == outputs + 1
    return SparseIndex(one.shape, starts, columns)


def _row_blocks(one: SparseIndex, other: SparseIndex) -> Iterator[tuple[int, int]]:
    """Returns rows by which two indices of a weight are compared: the first of each block, and the one after its last."""
    outputs = one.matrix[0]
    step = max(1, outputs * BLOCK // max(1, one.num_active + other.num_active))
    return ((first, min(first + step, outputs)) for first in range(0, outputs, step))


def _blocks(index: SparseIndex, other: SparseIndex) -> Iterator[tuple[int, Tensor]]:
    """Yields for each block of `_row_blocks` how many entries are stored before it, and the places of its own."""
    for first, last in _row_blocks(index, other):
        yield int(index.starts[first]), index.places_in_rows(first, last)


def _found(old: Tensor, new: Tensor, begin: int) -> Tensor:
    """Returns where new places are among old ones, plus `begin`; -1 where they are not. Both are ascending."""
    if not len(old):
        return torch.full_like(new, -1, dtype=torch.int32)
    found = torch.searchsorted(old, new, out_int32=True).clamp_(max=len(old) - 1)
    return torch.where(old[found] == new, found + begin, -1)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def sort(places: Tensor) -> Tensor:
    """Sorts a tensor of whole numbers in place and returns it."""
    if places.device.type == "cpu":
        places.numpy().sort()
        return places
    return places.sort().values


def narrow(places: Tensor, numel: int) -> Tensor:
    """Returns places in a weight of `numel` entries as int32 if these are few enough, else as int64."""
    return places.int() if numel <= LIMIT else places.long()


def _places(starts: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    dtype = torch.int32 if math.prod(shape) <= LIMIT else torch.int64
    first = torch.arange(shape[0], device=starts.device, dtype=dtype) * shape[1]
    return torch.repeat_interleave(first, starts.diff()).add_(columns)
