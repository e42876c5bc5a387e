"""Regions of an image, and a greedy order of them by what a set of regions says about a class.

The score of a set is submodular-like: the probability of the class with the set alone, plus one minus that with the set
removed. The first term asks whether the regions suffice, the second whether they are needed.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pruneyard.workloads.probe.saliency import keep

Search = Literal["bidirectional", "greedy"]
Score = Callable[[Tensor], Tensor]
"""Returns the scores (B, T) of sets of regions (B, T, R) bool."""


def grid_regions(shape: tuple[int, ...], side: int) -> Tensor:
    """Returns the region of every place, (P,) int64: a grid of side x side parts of an image (C, H, W), or `side` parts of (F,).

    Sizes that `side` does not divide give parts that differ by one line. Raises `ValueError` for more parts than lines.
    """
    lines = shape[1:] if len(shape) == 3 else shape
    if side > min(lines):
        raise ValueError(f"side is {side}; the inputs have the shape {shape}, so it must be {min(lines)} or less")
    parts = [torch.arange(size) * side // size for size in lines]
    return parts[0] if len(parts) == 1 else (parts[0][:, None] * side + parts[1]).flatten()


def set_score(network: nn.Module, inputs: Tensor, classes: Tensor, regions: Tensor, *, num_classes: int) -> Score:
    """Returns the score of sets of regions for inputs (B, ...) and the class of each, (B,)."""

    def probability(chosen: Tensor) -> Tensor:
        num, trials = chosen.shape[:2]
        repeated = inputs.repeat_interleave(trials, dim=0)
        kept = chosen.flatten(0, 1)[:, regions]
        found: Tensor = network(keep(repeated, kept))[:, :num_classes].softmax(dim=1)
        return found.gather(1, classes.repeat_interleave(trials)[:, None]).view(num, trials)

    def score(chosen: Tensor) -> Tensor:
        with torch.no_grad():
            return probability(chosen) + 1 - probability(~chosen)

    return score


def greedy_order(score: Score, num: int, regions: int, *, search: Search, device: torch.device) -> tuple[Tensor, int]:
    """Returns the regions of every input from most to least important, (num, regions), and the sets that were scored for each.

    `greedy` appends the region that raises the score most, until all are chosen. `bidirectional` also sets aside, from the same
    evaluations, the region that raises it least, so each round places two, and half as many sets are scored. Ties by position.
    """
    front = torch.zeros(num, regions, dtype=torch.bool, device=device)
    is_open = torch.ones_like(front)
    order = torch.zeros(num, regions, dtype=torch.int64, device=device)
    single = torch.eye(regions, dtype=torch.bool, device=device)
    first, last, scored = 0, regions - 1, 0
    while first <= last:
        num_open = last - first + 1
        # The open regions of every input, ascending: all inputs have equally many.
        candidates = is_open.nonzero()[:, 1].view(num, num_open)
        scores = score(front[:, None, :] | single[candidates])
        scored += num_open
        best = candidates.gather(1, scores.argmax(dim=1, keepdim=True))
        order[:, first : first + 1] = best
        front.scatter_(1, best, True)
        is_open.scatter_(1, best, False)
        first += 1
        if search == "bidirectional" and first <= last:
            rest = scores.masked_fill(candidates == best, torch.inf)
            worst = candidates.gather(1, rest.argmin(dim=1, keepdim=True))
            order[:, last : last + 1] = worst
            is_open.scatter_(1, worst, False)
            last -= 1
    return order, scored


def first_regions(order: Tensor, count: int) -> Tensor:
    """Returns the set of the first `count` regions of every order (N, R): (N, R) bool."""
    chosen = torch.zeros_like(order, dtype=torch.bool)
    return chosen.scatter_(1, order[:, :count], True)
