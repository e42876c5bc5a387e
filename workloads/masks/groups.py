"""Selection of cells within groups: every group of a layer keeps a number of its own, and ties are broken at random.

A mask of cells is a boolean tensor (groups, cells). Selection in a single group is that of a whole layer, bit for bit.
"""

import torch
from torch import Tensor

from pruneyard.workloads.masks.masks import check_finite, keep_largest, random_subset


def random_cells(shape: tuple[int, int], count: int, *, generator: torch.Generator) -> Tensor:
    """Returns a mask (groups, cells) with `count` random cells in each group; all such masks are equally likely."""
    groups, cells = shape
    if groups > 1:
        # Random ranks and no scores, so that the drawn numbers do not depend on `count`.
        return _random_ranks(shape, generator) < count
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[0, random_subset(cells, count, generator)] = True
    return mask


def keep_largest_in_groups(
    scores: Tensor, among: Tensor, *, counts: Tensor, generator: torch.Generator, layer: str
) -> Tensor:
    """Returns the mask (groups, cells) of the `counts[group]` cells with the largest scores among the True ones of each group.

    counts: (groups,), at most the number of True cells of each group.

    Cells that tie at a group's threshold are chosen at random; without a tie the generator is not used. Raises
    `NonFiniteScoresError`, which names `layer`.
    """
    if len(counts) == 1:
        return keep_largest(scores, among, count=int(counts), generator=generator, layer=layer)
    scores = scores.detach()
    check_finite(scores, layer)
    scores = torch.where(among, scores, -torch.inf)
    thresholds = _thresholds(scores, counts)
    assert bool((thresholds > -torch.inf).all()), f"{layer} has a group with fewer cells than it is to keep"
    selected = scores >= thresholds
    rows = (selected.sum(1) != counts).nonzero().squeeze(1)
    if len(rows):
        selected[rows] = _without_excess(scores[rows], thresholds[rows], counts[rows], generator)
    return selected


def drop_and_grow_in_groups(
    mask: Tensor, *, drop_scores: Tensor, grow_scores: Tensor, num_moved: int, generator: torch.Generator, layer: str
) -> Tensor:
    """Drops the `num_moved` active cells of smallest drop score in the layer; then each group grows as many as it lost.

    Each group grows its cells of largest grow score. A dropped cell may grow again. With one group this is
    `pruneyard.workloads.masks.masks.drop_and_grow`. Reference: Lasby et al. 2023, Dynamic Sparse Training with Structured
    Sparsity (arXiv:2305.02299), where a group is a neuron.
    """
    num_active = int(torch.count_nonzero(mask))
    if num_moved == 0 or num_active == mask.numel():
        return mask
    kept = keep_largest(drop_scores, mask, count=num_active - num_moved, generator=generator, layer=layer)
    lost = (mask & ~kept).sum(1)
    return kept | keep_largest_in_groups(grow_scores, ~kept, counts=lost, generator=generator, layer=layer)


def _thresholds(scores: Tensor, counts: Tensor) -> Tensor:
    """Returns the `counts[group]`-th largest score of each group, (groups, 1); infinity where that is 0."""
    largest = scores.topk(max(1, int(counts.max())), dim=1).values
    found = largest.gather(1, (counts - 1).clamp(min=0)[:, None])
    return found.masked_fill(counts[:, None] == 0, torch.inf)


def _without_excess(scores: Tensor, thresholds: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Returns masks in which a random part of the cells at the threshold completes the count of each group."""
    above, tied = scores > thresholds, scores == thresholds
    ranks = _random_ranks((scores.shape[0], scores.shape[1]), generator).to(scores.device)
    ranks = torch.where(tied, ranks, torch.iinfo(torch.int64).max)
    missing = counts - above.sum(1)
    # Ranks differ from each other, so that the threshold of a group selects exactly as many as are missing.
    ordered = ranks.sort(dim=1).values.gather(1, (missing - 1).clamp(min=0)[:, None])
    return above | (tied & (ranks <= ordered) & (missing > 0)[:, None])


def _random_ranks(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Returns a random permutation of the cells of each group, (groups, cells) int64, on the CPU."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).argsort(dim=1)
