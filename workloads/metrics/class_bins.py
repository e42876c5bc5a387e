"""Bins of every class's probability over all rows, filled some rows at a time.

A row sums to 1, so fewer than B of its probabilities lie above 1 / B: only these are sorted into bins one by one, and the first
bin is what they leave.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pruneyard.workloads.metrics.binning import bin_index
from pruneyard.workloads.metrics.probabilities import CHUNK, Floats, Labels


@dataclass(frozen=True, kw_only=True)
class ClassBins:
    """Per class and bin `(K, num_bins)`: rows, the sum of their probability of the class, and how many are of the class."""

    count: NDArray[np.int64]
    probability: Floats
    positive: Floats

    @classmethod
    def of(cls, probabilities_NK: Floats, labels_N: Labels, *, num_bins: int) -> "ClassBins":
        """Bins of equal width of checked arrays."""
        filling = ClassBinsFilling(num_bins=num_bins)
        step = max(1, CHUNK // probabilities_NK.shape[1])
        for start in range(0, len(labels_N), step):
            filling.add(probabilities_NK[start : start + step])
        return filling.finished(labels_N, probabilities_NK[np.arange(len(labels_N)), labels_N])

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
        """How many of all K * num_bins bins hold no row."""
        return int((self.count == 0).sum())


@dataclass
class ClassBinsFilling:
    """Collects rows; labels come at the end."""

    num_bins: int
    of_classes: Floats = field(default_factory=lambda: np.zeros(0))  # (K,), sums over all rows
    num_rows: int = 0
    places: list[NDArray[np.int64]] = field(default_factory=list)  # class * num_bins + bin
    values: list[Floats] = field(default_factory=list)

    def add(self, probabilities_nK: Floats) -> None:
        """Takes some rows in."""
        num_classes = probabilities_nK.shape[1]
        high = np.flatnonzero(
            probabilities_nK * self.num_bins > 1
        )  # not in the first bin, as bin_index has it
        row, of_class = np.divmod(high, num_classes)
        values = probabilities_nK[row, of_class]
        self.places.append(of_class * self.num_bins + bin_index(values, self.num_bins))
        self.values.append(values)
        sums = np.ones(len(probabilities_nK)) @ probabilities_nK
        self.of_classes = self.of_classes + sums if self.num_rows else sums
        self.num_rows += len(probabilities_nK)

    def finished(self, labels_N: Labels, at_label_N: Floats) -> ClassBins:
        """With labels and their probabilities of all rows taken in."""
        shape = (len(self.of_classes), self.num_bins)
        size = shape[0] * shape[1]
        places = np.concatenate(self.places)
        count = np.bincount(places, minlength=size).reshape(shape)
        values = np.concatenate(self.values)
        probability = np.bincount(places, weights=values, minlength=size).astype(np.float64).reshape(shape)
        count[:, 0] += self.num_rows - count.sum(axis=1)
        probability[:, 0] += self.of_classes - probability.sum(axis=1)
        of_labels = labels_N * self.num_bins + bin_index(at_label_N, self.num_bins)
        positive = np.bincount(of_labels, minlength=size).reshape(shape).astype(np.float64)
        return ClassBins(count=count, probability=probability, positive=positive)
