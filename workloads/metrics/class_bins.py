"""Bins of every class's probability over all rows, built chunk by chunk.

A row sums to 1, so fewer than B of its probabilities lie above 1 / B. Only these are assigned to bins one by one; the first bin
contains the remaining ones.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pruneyard.workloads.metrics.binning import bin_index
from pruneyard.workloads.metrics.probabilities import CHUNK, Floats, Labels


@dataclass(frozen=True, kw_only=True)
class ClassBins:
    """Bins of each class's probability, `(K, num_bins)` each.

    count: number of rows; probability: sum of their probabilities of the class; positive: number of rows of the class.
    """

    count: NDArray[np.int64]
    probability: Floats
    positive: Floats

    @classmethod
    def from_probabilities(cls, probabilities_NK: Floats, labels_N: Labels, *, num_bins: int) -> "ClassBins":
        """Creates bins of equal width from valid arrays."""
        builder = ClassBinsBuilder(num_bins=num_bins)
        # Bounds the memory of the product and of the mask in `add`, and keeps both in the cache.
        step = max(1, CHUNK // probabilities_NK.shape[1])
        for start in range(0, len(labels_N), step):
            builder.add(probabilities_NK[start : start + step])
        return builder.build(labels_N, probabilities_NK[np.arange(len(labels_N)), labels_N])

    @property
    def num_rows(self) -> int:
        return int(self.count[0].sum())

    @property
    def errors(self) -> Floats:
        """Expected calibration error of each class `(K,)`, NaN for a class without rows."""
        each = np.abs(self.probability - self.positive).sum(axis=1) / self.num_rows
        return np.where(self.positive.any(axis=1), each, np.nan)

    @property
    def num_empty(self) -> int:
        """Number of bins without rows, of all K * num_bins bins."""
        return int((self.count == 0).sum())


@dataclass
class ClassBinsBuilder:
    """Collects the probabilities of rows chunk by chunk; `build` takes the labels of all rows."""

    num_bins: int
    class_sums: Floats = field(default_factory=lambda: np.zeros(0))  # (K,), sums of probabilities over all rows
    num_rows: int = 0
    indices: list[NDArray[np.int64]] = field(default_factory=list)  # class * num_bins + bin
    values: list[Floats] = field(default_factory=list)

    def add(self, probabilities_nK: Floats) -> None:
        """Adds some rows."""
        num_classes = probabilities_nK.shape[1]
        # The same product as in bin_index, so that exactly the probabilities outside the first bin are found.
        high = np.flatnonzero(probabilities_nK * self.num_bins > 1)
        row, label = np.divmod(high, num_classes)
        values = probabilities_nK[row, label]
        self.indices.append(label * self.num_bins + bin_index(values, self.num_bins))
        self.values.append(values)
        sums = np.ones(len(probabilities_nK)) @ probabilities_nK
        # The number of classes is known from the first chunk on, so before it there is nothing to add to.
        self.class_sums = self.class_sums + sums if self.num_rows else sums
        self.num_rows += len(probabilities_nK)

    def build(self, labels_N: Labels, at_label_N: Floats) -> ClassBins:
        """Returns the bins of all rows that were added, given their labels and the probabilities of these labels."""
        shape = (len(self.class_sums), self.num_bins)
        size = shape[0] * shape[1]
        indices = np.concatenate(self.indices)
        count = np.bincount(indices, minlength=size).reshape(shape)
        values = np.concatenate(self.values)
        probability = np.bincount(indices, weights=values, minlength=size).astype(np.float64).reshape(shape)
        # Every row has one bin per class, so the first bin has all rows that `add` assigned to no other.
        count[:, 0] += self.num_rows - count.sum(axis=1)
        probability[:, 0] += self.class_sums - probability.sum(axis=1)
        # Row of the label's class, in the same flat order of class and bin as `indices`.
        label_indices = labels_N * self.num_bins + bin_index(at_label_N, self.num_bins)
        positive = np.bincount(label_indices, minlength=size).reshape(shape).astype(np.float64)
        return ClassBins(count=count, probability=probability, positive=positive)
