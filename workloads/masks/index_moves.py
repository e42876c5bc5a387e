"""Drop and grow on the index of a sparse weight: the same choices as `drop_and_grow` makes on masks, without a dense tensor."""

from collections.abc import Callable

import torch
from torch import Tensor

from pruneyard.workloads.masks.masks import check_finite, keep_largest, kth_largest, random_subset
from pruneyard.workloads.masks.sparse_index import SparseIndex, narrow, sort

BLOCK = 1 << 22  # entries of a block of rows whose scores exist at a time

RowScores = Callable[[int, int], Tensor]
"""Maps the first row and the row after the last one to the scores of these rows, `(rows, inputs)`."""


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
    everywhere = torch.ones_like(drop_scores, dtype=torch.bool)
    count = index.num_active - num_moved
    kept = index.places[keep_largest(drop_scores, everywhere, count=count, generator=generator, layer=layer)]
    del everywhere, drop_scores
    if grow_scores is None:
        grown = _random_others(kept, index.numel(), num_moved, generator)
    else:
        grown = _largest_others(kept, index.matrix, grow_scores, num_moved, generator, layer)
    return SparseIndex.of_flat(sort(torch.cat([kept, grown.to(kept.dtype)])), index.shape)


def _random_others(kept: Tensor, numel: int, count: int, generator: torch.Generator) -> Tensor:
    """Returns `count` random places below `numel` that are not among the kept ones (n,), ascending."""
    num = numel - len(kept)
    chosen = torch.arange(num) if count == num else random_subset(num, count, generator)  # all of them without the generator
    chosen = chosen.to(device=kept.device, dtype=kept.dtype)
    # The r-th other place is r plus the number of kept places before it.
    others_before = kept - torch.arange(len(kept), device=kept.device, dtype=kept.dtype)
    return chosen + torch.searchsorted(others_before, chosen, right=True, out_int32=kept.dtype == torch.int32)


def _largest_others(
    kept: Tensor, shape: tuple[int, int], scores_of: RowScores, count: int, generator: torch.Generator, layer: str
) -> Tensor:
    """Returns the `count` places of largest score that are not among the kept ones (n,), ascending; ties are broken at random."""
    outputs, inputs = shape
    step = max(1, BLOCK // inputs)
    scores, places = torch.empty(0, device=kept.device), kept[:0]
    for first in range(0, outputs, step):
        last = min(first + step, outputs)
        block = scores_of(first, last).detach().flatten()
        check_finite(block, layer)
        begin, end = torch.searchsorted(kept, torch.tensor([first * inputs, last * inputs]).to(kept)).tolist()
        block = block.index_fill(0, kept[begin:end].long() - first * inputs, -torch.inf)
        least = kth_largest(scores, count) if len(scores) >= count else torch.tensor(-torch.inf)
        candidates = ((block >= least.to(block)) & (block > -torch.inf)).nonzero().squeeze(1)
        scores = torch.cat([scores.to(block), block[candidates]])
        places = torch.cat([places, candidates + first * inputs])
        if len(scores) > count:
            reached = scores >= kth_largest(scores, count)
            scores, places = scores[reached], places[reached]
    if len(scores) == count:
        return places
    threshold = kth_largest(scores, count)
    above, tied = places[scores > threshold], places[scores == threshold]
    chosen = random_subset(len(tied), count - len(above), generator)
    return torch.cat([above, tied[chosen.to(tied.device)]])
