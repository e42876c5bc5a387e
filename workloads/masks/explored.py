"""Records the weights that were ever active in a training: as a mask, an index or one bit for each, whichever takes least."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruneyard.workloads.masks.sparse_index import Mask, SparseIndex, dense_mask, is_full, union

ROWS_AT_A_TIME = 1 << 10


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A mask of a weight with eight entries in each byte of `bits (ceil(numel / 8),)`, uint8 on the CPU, the first one lowest."""

    shape: tuple[int, ...]
    bits: Tensor

    @classmethod
    def of_index(cls, index: SparseIndex) -> "PackedMask":
        """Returns the mask of the entries that are stored."""
        packed = cls(index.shape, torch.zeros(-(-index.numel() // 8), dtype=torch.uint8))
        packed.add(index)
        return packed

    def add(self, index: SparseIndex) -> None:
        """Sets the bits of the stored entries."""
        bits, (outputs, inputs) = self.bits.numpy(), index.matrix
        for first in range(0, outputs, ROWS_AT_A_TIME):
            rows = index.places_in_rows(first, min(first + ROWS_AT_A_TIME, outputs))
            places = rows.cpu().numpy().astype(np.int64) + first * inputs
            if len(places):
                of_place = places >> 3
                starts = np.flatnonzero(np.diff(of_place, prepend=-1))  # of the places that share a byte
                bits[of_place[starts]] |= np.bitwise_or.reduceat(np.uint8(1) << (places & 7).astype(np.uint8), starts)

    @property
    def num_active(self) -> int:
        """Number of True entries."""
        return int(np.bitwise_count(self.bits.numpy()).sum(dtype=np.int64))

    def numel(self) -> int:
        """Returns the number of entries."""
        return math.prod(self.shape)

    def mask(self) -> Tensor:
        """Returns the mask as a bool tensor of the weight's shape, on the CPU."""
        entries = np.unpackbits(self.bits.numpy(), count=self.numel(), bitorder="little")
        return torch.from_numpy(entries).bool().reshape(self.shape)


Explored = Mask | PackedMask


def with_mask(explored: Explored, mask: Mask) -> Explored:
    """Returns what was explored with the active entries of a mask added; packed bits are written into."""
    if is_full(explored):
        return explored
    if not isinstance(explored, PackedMask):
        found = union(explored, mask)
        is_larger = isinstance(found, SparseIndex) and 4 * found.num_active > found.numel() / 8
        return PackedMask.of_index(found) if is_larger and isinstance(found, SparseIndex) else found
    if not isinstance(mask, SparseIndex):
        return explored.mask().to(mask.device) | dense_mask(mask)
    explored.add(mask)
    return explored
