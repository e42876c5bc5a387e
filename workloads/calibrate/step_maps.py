"""Maps of one probability to another that are fitted class by class, and how those of all classes stand in flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pruneyard.workloads.calibrate.calibrator import Floats


def end_to_end(parts: Sequence[Floats]) -> tuple[Floats, NDArray[np.int64]]:
    """Arrays of differing lengths as one, and where each begins and the last ends: `(len(parts) + 1,)`."""
    return np.concatenate(parts), np.cumsum([0, *map(len, parts)])


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A function of p in [0, 1]: `values[b]` above `edges[b - 1]` up to and with `edges[b]`; outer ends are left out."""

    edges: Floats  # (B - 1,), rising
    values: Floats  # (B,)


def steps_at(p_N: Floats, edges: Floats, values: Floats) -> Floats:
    """The function of these steps at p, `(N,)`."""
    return np.asarray(values[np.searchsorted(edges, p_N, side="left")])


def equal_mass_edges(sorted_N: Floats, num_bins: int) -> Floats:
    """Right-closed inner edges of at most `num_bins` bins of nearly equal counts; equal values are never told apart.

    Values in rising order are cut by position; equal ones across a cut all go below it, so no bin is empty.
    """
    cuts = np.arange(1, num_bins) * len(sorted_N) // num_bins
    after_ties = np.searchsorted(sorted_N, sorted_N[cuts[cuts > 0] - 1], side="right")
    return edges_before(sorted_N, np.unique(after_ties[after_ties < len(sorted_N)]))


def edges_before(sorted_N: Floats, places: NDArray[np.int64]) -> Floats:
    """Midway between the values at these places, from 1, and those before them, which are smaller."""
    below, above = sorted_N[places - 1], sorted_N[places]
    middle = (below + above) / 2
    return np.where(middle < above, middle, below)  # between neighbours of float64 there is nothing


def counts_in(sorted_N: Floats, outcomes_N: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """Rows and positives in each bin, `(B,)`, of values in rising order with outcomes 0 or 1."""
    ends = np.concatenate([[0], np.searchsorted(sorted_N, edges, side="right"), [len(sorted_N)]])
    positives_to = np.concatenate([[0.0], np.cumsum(outcomes_N)])
    return np.diff(ends).astype(np.float64), np.diff(positives_to[ends])


def midpoints(edges: Floats) -> Floats:
    """Of the bins between 0, the inner edges, and 1: `(B,)`."""
    whole = np.concatenate([[0.0], edges, [1.0]])
    return np.asarray((whole[:-1] + whole[1:]) / 2)
