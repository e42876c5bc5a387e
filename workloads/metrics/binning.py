"""Bins of confidences, as all binned metrics use them.

- `equal_width`: B right-closed bins of [0, 1], (b / B, (b + 1) / B]; 0 belongs to the first bin. The product of value and B is
  computed in float64; a value that is not exactly a bin's edge in binary (0.6 for B = 5) belongs to the bin of that product.
- `equal_mass`: rows are sorted by value, stably, and divided by position into B groups whose sizes differ by at most one, the
  larger groups first. Rows of equal value may belong to different groups; each then counts with their mean outcome, so that no
  result depends on the order of rows.
- Empty bins add nothing to a sum, have a mean of NaN, and are counted by `Reliability.num_empty`.

Reference: Naeini, Cooper and Hauskrecht (AAAI 2015); Nguyen and O'Connor (arXiv:1508.05154) for equal mass.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pruneyard.workloads.metrics.probabilities import Floats, TopLabel

Binning = Literal["equal_width", "equal_mass"]


def bin_index(values: Floats, num_bins: int) -> NDArray[np.int64]:
    """Returns the bin of each value in [0, 1] among `num_bins` right-closed bins of equal width; 0 is in the first bin."""
    _check_num_bins(num_bins)
    # ceil(...) - 1 closes bins on the right. It is -1 for the value 0, which the clip moves to the first bin.
    return np.clip(np.ceil(values * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def equal_mass_index(values: Floats, num_bins: int) -> NDArray[np.int64]:
    """Returns the group of each value among `num_bins` groups of equal size, up to one row."""
    _check_num_bins(num_bins)
    index_N = np.empty(len(values), dtype=np.int64)
    index_N[np.argsort(values, kind="stable")] = np.repeat(
        np.arange(num_bins), balanced_sizes(len(values), num_bins)
    )
    return index_N


def balanced_sizes(num_rows: int, num_bins: int) -> NDArray[np.int64]:
    """Returns sizes `(num_bins,)` that differ by at most one, the larger first."""
    return num_rows // num_bins + (np.arange(num_bins) < num_rows % num_bins)


def index_of(values: Floats, num_bins: int, binning: Binning) -> NDArray[np.int64]:
    """Returns the bin of each value, with bins of equal width or equal mass."""
    if binning == "equal_width":
        return bin_index(values, num_bins)
    if binning == "equal_mass":
        return equal_mass_index(values, num_bins)
    raise ValueError(f"binning is {binning!r}; it must be 'equal_width' or 'equal_mass'")


def _check_num_bins(num_bins: int) -> None:
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """A reliability diagram: mean confidence, accuracy and count per bin, each `(num_bins,)`.

    Confidence and accuracy of an empty bin are NaN.
    """

    confidence: Floats
    accuracy: Floats
    count: NDArray[np.int64]

    @property
    def num_empty(self) -> int:
        """Number of bins without rows."""
        return int((self.count == 0).sum())

    @property
    def gap(self) -> Floats:
        """Accuracy minus confidence `(num_bins,)`: negative if over-confident, 0 if the bin is empty."""
        return np.where(self.count > 0, self.accuracy - self.confidence, 0.0)

    @property
    def share(self) -> Floats:
        """Share of all rows in each bin."""
        return np.asarray(self.count / self.count.sum())


def bin_by_confidence(top: TopLabel, *, num_bins: int, binning: Binning = "equal_width") -> Reliability:
    """Returns the reliability diagram of confidences and correctness."""
    index_N = index_of(top.confidence, num_bins, binning)
    # Only bins of equal mass can split rows of equal confidence; bins of equal width contain all of them.
    correct_N = _pooled(top) if binning == "equal_mass" else top.correct
    count = np.bincount(index_N, minlength=num_bins)
    # 0 / 0 in empty bins is the NaN that `Reliability` documents.
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index_N, weights=top.confidence, minlength=num_bins) / count
        accuracy = np.bincount(index_N, weights=correct_N, minlength=num_bins) / count
    return Reliability(confidence=confidence, accuracy=accuracy, count=count)


def _pooled(top: TopLabel) -> Floats:
    """Returns the mean outcome of all rows of the same confidence, for every row."""
    distinct, which_N, counts = np.unique(top.confidence, return_inverse=True, return_counts=True)
    # All confidences differ, so every row is its own group.
    if len(distinct) == len(top):
        return np.asarray(top.correct, dtype=np.float64)
    return np.asarray((np.bincount(which_N, weights=top.correct) / counts)[which_N])
