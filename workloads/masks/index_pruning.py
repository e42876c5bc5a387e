"""Pruning by score to indices: the choices of `keep_largest` and its relatives, without a mask or the scores of a whole layer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pruneyard.workloads.masks.index_moves import BLOCK, Blocks, largest_places
from pruneyard.workloads.masks.masks import check_finite
from pruneyard.workloads.masks.sparse_index import Mask, SparseIndex, is_full, narrow, sort


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The active entries of a layer, some of which are to be kept.

    They are numbered in row-major order: all entries of a weight that is stored dense, those without a place in the mask
    included, or the stored entries of a weight that is stored sparse.
    """

    name: str
    mask: Mask  # which entries are active
    values: Tensor  # (n,), the entries by their numbers
    score: Callable[[Tensor], Tensor]  # maps values to their scores, of the same shape
    is_elementwise: bool = True  # whether the score of an entry depends on its own value alone; else a layer is scored at once

    def blocks(self) -> Blocks:
        """Yields scores of some entries at a time, see `Blocks`. Raises `NonFiniteScoresError`, which names the layer."""
        first = 0
        for block in self._scores():
            check_finite(block, self.name)
            if isinstance(self.mask, Tensor) and not is_full(self.mask):
                block = torch.where(self.mask.flatten()[first : first + len(block)], block, -torch.inf)
            yield first, block
            first += len(block)

    def _scores(self) -> Iterator[Tensor]:
        if not self.is_elementwise:
            yield from self.score(self.values).split(BLOCK)
            return
        for piece in self.values.split(BLOCK):
            yield self.score(piece)

    def index_of(self, numbers: Tensor) -> SparseIndex:
        """Returns the index of the entries with these numbers, (n,) in any order."""
        ascending = sort(numbers)
        if isinstance(self.mask, SparseIndex):
            return SparseIndex.of_flat(self.mask.places[ascending], self.mask.shape)
        return SparseIndex.of_flat(narrow(ascending, self.mask.numel()), tuple(self.mask.shape))


def keep_largest_index(candidates: Candidates, *, count: int, generator: torch.Generator) -> SparseIndex:
    """Returns the index of the `count` active entries with the largest scores, those of `keep_largest`."""
    numbers = largest_places(candidates.blocks, count, generator)
    assert len(numbers) == count, f"{candidates.name} has fewer than {count} entries to keep"
    return candidates.index_of(numbers)


def keep_largest_indices(
    candidates: Mapping[str, Candidates], *, count: int, generator: torch.Generator
) -> dict[str, SparseIndex]:
    """Returns the indices of the `count` active entries with the largest scores over all layers: `keep_largest_overall`'s."""
    layers = list(candidates.values())
    best = [int(largest_places(layer.blocks, 1, generator)) for layer in layers]
    offsets = [0]
    for layer in layers:
        offsets.append(offsets[-1] + len(layer.values))
    rest = sort(largest_places(partial(_others, layers, best, offsets), count - len(layers), generator))
    assert len(rest) == count - len(layers), f"{', '.join(candidates)} have fewer than {count} entries to keep"
    bounds = torch.searchsorted(rest, torch.tensor(offsets).to(rest)).tolist()
    found = {}
    for number, (name, layer) in enumerate(candidates.items()):
        own = rest[bounds[number] : bounds[number + 1]] - offsets[number]
        found[name] = layer.index_of(torch.cat([own, own.new_tensor([best[number]])]))
    return found


def _others(layers: list[Candidates], best: list[int], offsets: list[int]) -> Blocks:
    """Yields the scores of all layers one after another, without the best entry of each."""
    for layer, chosen, offset in zip(layers, best, offsets[:-1], strict=True):
        for first, block in layer.blocks():
            if first <= chosen < first + len(block):
                block = block.index_fill(0, torch.tensor([chosen - first], device=block.device), -torch.inf)
            yield offset + first, block
