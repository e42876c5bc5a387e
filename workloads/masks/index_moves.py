"""Drop and grow on the indices of sparse weights: the same choices as are made on masks, without a dense tensor."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from pruneyard.workloads.masks.masks import (
    check_finite,
    keep_largest,
    keep_largest_overall,
    kth_largest,
    random_subset,
)
from pruneyard.workloads.masks.sparse_index import SparseIndex, narrow, sort

BLOCK = 1 << 22  # entries of a block of rows whose scores exist at a time

RowScores = Callable[[int, int], Tensor]
"""Maps the first row and the row after the last one to the scores of these rows, `(rows, inputs)`."""

Blocks = Iterator[tuple[int, Tensor]]
"""Scores of blocks one after another, `(n,)`, -inf where nothing may be chosen, with the place of the first score of each."""


def random_index(weight: Tensor, count: int, *, generator: torch.Generator) -> SparseIndex:
    """Returns the index of `count` random entries of a weight, of which only the shape is read: those of `random_masks`."""
    chosen = narrow(random_subset(weight.numel(), count, generator), weight.numel())
    return SparseIndex.of_flat(sort(chosen), tuple(weight.shape))


def drop_and_grow_index(
    index: SparseIndex,
    *,
    drop_scores: Tensor,
    grow_scores: RowScores | None,
    num_moved: int,
    generator: torch.Generator,
    layer: str,
) -> SparseIndex:
    """Drops the `num_moved` entries of smallest drop score, then grows as many of largest grow score.

    drop_scores: (num_active,), of the stored entries in their order.
    grow_scores: of all entries, by rows; None: all tie, so that entries are grown at random.

    A dropped entry may grow again. Raises `NonFiniteScoresError`, which names `layer`.
    """
    if num_moved == 0 or index.num_active == index.numel():
        return index
    index.forget_transpose()  # the moved index gets one of its own
    everywhere = torch.ones_like(drop_scores, dtype=torch.bool)
    chosen = keep_largest(drop_scores, everywhere, count=len(everywhere) - num_moved, generator=generator, layer=layer)
    del everywhere, drop_scores
    kept = index.places[chosen]
    if grow_scores is None:
        grown = _random_others(kept, index.numel(), num_moved, generator)
    else:
        scores_of, matrix = grow_scores, index.matrix
        grown = largest_places(lambda: _others(kept, matrix, scores_of, layer), num_moved, generator)
    return SparseIndex.of_flat(sort(torch.cat([kept, grown.to(kept.dtype)])), index.shape)


def move_between_layers(
    indices: Mapping[str, SparseIndex],
    *,
    drop_scores: Mapping[str, Tensor],
    grow_scores: Mapping[str, RowScores],
    num_moved: int,
    generator: torch.Generator,
) -> dict[str, SparseIndex]:
    """Drops the `num_moved` entries of smallest drop score of all layers, then grows as many of largest grow score anywhere.

    Each layer keeps at least one entry. The scores are those of `drop_and_grow_index`, by layer. Raises `NonFiniteScoresError`.
    """
    for index in indices.values():
        index.forget_transpose()
    everywhere = {name: torch.ones_like(scores, dtype=torch.bool) for name, scores in drop_scores.items()}
    num_kept = sum(index.num_active for index in indices.values()) - num_moved
    chosen = keep_largest_overall(drop_scores, everywhere, count=num_kept, generator=generator)
    kept = {name: index.places[chosen[name]] for name, index in indices.items()}
    offsets = torch.tensor([0, *(index.numel() for index in indices.values())]).cumsum(0)

    def others() -> Blocks:
        for (name, index), offset in zip(indices.items(), offsets.tolist(), strict=False):
            for first, block in _others(kept[name], index.matrix, grow_scores[name], name):
                yield offset + first, block

    grown = sort(largest_places(others, num_moved, generator))
    bounds = torch.searchsorted(grown, offsets.to(grown)).tolist()
    moved = {}
    for number, (name, index) in enumerate(indices.items()):
        own = grown[bounds[number] : bounds[number + 1]] - int(offsets[number])
        moved[name] = SparseIndex.of_flat(sort(torch.cat([kept[name], own.to(kept[name])])), index.shape)
    return moved


def _random_others(kept: Tensor, numel: int, count: int, generator: torch.Generator) -> Tensor:
    """Returns `count` random places below `numel` that are not among the kept ones (n,), ascending."""
    num = numel - len(kept)
    chosen = torch.arange(num) if count == num else random_subset(num, count, generator)  # all of them without the generator
    chosen = chosen.to(device=kept.device, dtype=kept.dtype)
    # The r-th other place is r plus the number of kept places before it.
    others_before = kept - torch.arange(len(kept), device=kept.device, dtype=kept.dtype)
    return chosen + torch.searchsorted(others_before, chosen, right=True, out_int32=kept.dtype == torch.int32)


def _others(kept: Tensor, shape: tuple[int, int], scores_of: RowScores, layer: str) -> Blocks:
    """Yields the scores of a layer's entries that are not among the kept places (n,), some rows at a time."""
    outputs, inputs = shape
    step = max(1, BLOCK // inputs)
    for first in range(0, outputs, step):
        last = min(first + step, outputs)
        block = scores_of(first, last).detach().flatten()
        check_finite(block, layer)
        begin, end = torch.searchsorted(kept, torch.tensor([first * inputs, last * inputs]).to(kept)).tolist()
        yield first * inputs, block.index_fill(0, kept[begin:end].long() - first * inputs, -torch.inf)


def largest_places(blocks: Callable[[], Blocks], count: int, generator: torch.Generator) -> Tensor:
    """Returns the places (count,) int64 of the largest scores; ties at the threshold are broken at random.

    blocks: computes all scores; called a second time if more than `count` tie, whose places are not kept.
    """
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    threshold, above, places = torch.tensor(-torch.inf), torch.empty(0), torch.empty(0, dtype=torch.int64)
    num_tied, tied = 0, [places]  # scores that equal the threshold, and their places unless there are too many
    for first, block in blocks():
        threshold = threshold.to(block)
        equal = block == threshold if threshold > -torch.inf else torch.zeros_like(block, dtype=torch.bool)
        num_equal = int(torch.count_nonzero(equal))
        num_tied += num_equal
        tied = [*tied, _places(equal, first)] if num_equal and num_tied <= count else tied
        larger = block > threshold
        above = torch.cat([above.to(block), block[larger]])
        places = torch.cat([places.to(block.device), _places(larger, first)])
        if len(above) >= count:
            threshold = torch.as_tensor(kth_largest(above, count)).to(block)
            equal, larger = above == threshold, above > threshold
            num_tied, tied = int(torch.count_nonzero(equal)), [places[equal]]
            above, places = above[larger], places[larger]
    missing = count - len(above)
    found = torch.cat([part.to(places.device) for part in tied]) if num_tied <= count else None
    if num_tied > missing:
        ranks = sort(random_subset(num_tied, missing, generator)).to(places.device)
        found = found[ranks] if found is not None else _tied_of_ranks(blocks(), threshold, ranks)
    assert found is not None
    return torch.cat([places, found])


def _tied_of_ranks(blocks: Blocks, threshold: Tensor, ranks: Tensor) -> Tensor:
    """Returns the places of the scores that equal the threshold and have these ranks among them, (n,) ascending."""
    found, num_seen = [], 0
    for first, block in blocks:
        tied = _places(block == threshold, first)
        begin, end = torch.searchsorted(ranks, torch.tensor([num_seen, num_seen + len(tied)]).to(ranks)).tolist()
        found.append(tied[ranks[begin:end] - num_seen])
        num_seen += len(tied)
    return torch.cat(found)


def _places(chosen: Tensor, first: int) -> Tensor:
    """Returns the places of the True entries of a block that starts at place `first`, int64."""
    return chosen.nonzero().squeeze(1) + first
