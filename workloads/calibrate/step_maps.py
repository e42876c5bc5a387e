"""Step functions from probability to calibrated probability, one per class, stored in flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pruneyard.workloads.calibrate.calibrator import Floats


def concatenated(parts: Sequence[Floats]) -> tuple[Floats, NDArray[np.int64]]:
    """Concatenates arrays of different lengths and returns their boundaries `(len(parts) + 1,)`."""
    return np.concatenate(parts), np.cumsum([0, *map(len, parts)])


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A step function on [0, 1]: `values[b]` on (`edges[b - 1]`, `edges[b]`]. `edges` are the inner edges only."""

    edges: Floats  # (B - 1,), rising
    values: Floats  # (B,)


def steps_at(p_N: Floats, edges: Floats, values: Floats) -> Floats:
    """Evaluates the step function at p, `(N,)`."""
    return np.asarray(values[np.searchsorted(edges, p_N, side="left")])


def equal_mass_edges(sorted_N: Floats, num_bins: int) -> Floats:
    """Returns inner edges of at most `num_bins` right-closed bins of nearly equal counts; equal values share a bin.

    Sorted values are split by position; equal values across a split all go below it, so no bin is empty.
    """
    cuts = np.arange(1, num_bins) * len(sorted_N) // num_bins
    # With fewer rows than bins, some cuts are 0 and have no row before them.
    after_ties = np.searchsorted(sorted_N, sorted_N[cuts[cuts > 0] - 1], side="right")
    return edges_before(sorted_N, np.unique(after_ties[after_ties < len(sorted_N)]))


def edges_before(sorted_N: Floats, places: NDArray[np.int64]) -> Floats:
    """Returns edges midway between the values at `places` (from 1) and their smaller predecessors."""
    below, above = sorted_N[places - 1], sorted_N[places]
    middle = (below + above) / 2
    return np.where(middle < above, middle, below)  # adjacent float64 numbers have no midpoint


def counts_in(sorted_N: Floats, outcomes_N: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """Returns the numbers of rows and positives in each bin, `(B,)`, for sorted values with outcomes 0 or 1."""
    # `right`, because bins are closed on the right.
    ends = np.concatenate([[0], np.searchsorted(sorted_N, edges, side="right"), [len(sorted_N)]])
    positives_to = np.concatenate([[0.0], np.cumsum(outcomes_N)])
    return np.diff(ends).astype(np.float64), np.diff(positives_to[ends])


def midpoints(edges: Floats) -> Floats:
    """Returns the centres `(B,)` of the bins between 0, the inner edges, and 1."""
    whole = np.concatenate([[0.0], edges, [1.0]])
    return np.asarray((whole[:-1] + whole[1:]) / 2)
