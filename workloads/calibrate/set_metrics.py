"""Metrics of prediction sets: coverage and size.

Every function takes boolean `sets: (N, K)`, True for the classes in a row's set, and `labels: (N,)`, integers in [0, K). Invalid
input raises `ValueError`.

Reference: Angelopoulos, Bates, Malik and Jordan 2021, Uncertainty Sets for Image Classifiers (arXiv:2009.14193)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Sets = NDArray[np.bool_]
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

SIZE_STARTS = (0, 2, 4, 11, 101)  # strata of sizes 0-1, 2-3, 4-10, 11-100 and above, as in the RAPS paper

SET_METRICS = {
    "coverage": "fraction of samples whose prediction set contains the label",
    "set_size": "mean number of classes in a prediction set",
    "set_size_median": "median number of classes in a prediction set",
    "singleton_rate": "fraction of sets with exactly one class",
    "empty_rate": "fraction of sets without any class",
    "coverage_violation_by_size": "largest distance of coverage to 1 - alpha among sets of 0-1, 2-3, 4-10, 11-100, more classes",
    "coverage_of_worst_class": "smallest coverage of any class with samples",
}


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Coverage per group, NaN for empty groups, and the number of rows per group."""

    coverage: Floats
    count: Labels


def coverage_by_class(sets: ArrayLike, labels: ArrayLike) -> Coverage:
    """Returns the coverage of every class, (K,)."""
    sets_NK, labels_N = _checked(sets, labels)
    return _coverage(_covered(sets_NK, labels_N), labels_N, sets_NK.shape[1])


def coverage_by_size(sets: ArrayLike, labels: ArrayLike, *, starts: Sequence[int] = SIZE_STARTS) -> Coverage:
    """Returns the coverage of rows whose set has `starts[g]` to `starts[g + 1] - 1` classes; the last stratum is open."""
    if not starts or starts[0] != 0 or list(starts) != sorted(set(starts)):
        raise ValueError(f"starts are {tuple(starts)}; they must increase from 0")
    sets_NK, labels_N = _checked(sets, labels)
    # `right`, because a size that equals a start belongs to the stratum that begins there.
    strata = np.searchsorted(np.asarray(starts), sets_NK.sum(axis=1), side="right") - 1
    return _coverage(_covered(sets_NK, labels_N), strata, len(starts))


def set_metrics(sets: ArrayLike, labels: ArrayLike, *, alpha: float) -> dict[str, float]:
    """Returns all of `SET_METRICS`; alpha: target miss rate of the sets."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it must lie in (0, 1)")
    sets_NK, labels_N = _checked(sets, labels)
    sizes = sets_NK.sum(axis=1)
    return {
        "coverage": float(_covered(sets_NK, labels_N).mean()),
        "set_size": float(sizes.mean()),
        "set_size_median": float(np.median(sizes)),
        "singleton_rate": float((sizes == 1).mean()),
        "empty_rate": float((sizes == 0).mean()),
        "coverage_violation_by_size": float(
            np.nanmax(np.abs(coverage_by_size(sets_NK, labels_N).coverage - (1 - alpha)))
        ),
        "coverage_of_worst_class": float(np.nanmin(coverage_by_class(sets_NK, labels_N).coverage)),
    }


def _coverage(covered_N: NDArray[np.bool_], groups_N: Labels, num_groups: int) -> Coverage:
    count = np.bincount(groups_N, minlength=num_groups)
    hits = np.bincount(groups_N, weights=covered_N, minlength=num_groups)
    # NaN for empty groups, which the `nan` functions above leave out.
    coverage = np.divide(hits, count, out=np.full(num_groups, np.nan), where=count > 0)
    return Coverage(coverage=coverage, count=count)


def _covered(sets_NK: Sets, labels_N: Labels) -> NDArray[np.bool_]:
    return np.asarray(sets_NK[np.arange(len(labels_N)), labels_N])


def _checked(sets: ArrayLike, labels: ArrayLike) -> tuple[Sets, Labels]:
    sets_NK, labels_N = np.asarray(sets), np.asarray(labels)
    if sets_NK.dtype != np.bool_ or sets_NK.ndim != 2 or 0 in sets_NK.shape:
        raise ValueError(f"sets are {sets_NK.dtype} {sets_NK.shape}; they must be bool (N, K) with N >= 1")
    if labels_N.shape != (len(sets_NK),) or not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(
            f"labels are {labels_N.dtype} {labels_N.shape}; they must be integers ({len(sets_NK)},)"
        )
    wrong = (labels_N < 0) | (labels_N >= sets_NK.shape[1])
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"row {row} has label {labels_N[row]}; it must lie in [0, {sets_NK.shape[1]})")
    return sets_NK, labels_N.astype(np.int64)
