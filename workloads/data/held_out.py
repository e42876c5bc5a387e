"""Test rows for data that are published without a test part."""

from abc import ABC
from dataclasses import dataclass

import numpy as np

from pruneyard.workloads.data.dataset import (
    PublishedDataset,
    PublishedSource,
    Split,
    base_hint,
    check_labels,
    hold_out,
)


@dataclass(frozen=True, kw_only=True)
class HeldOutTestSource(PublishedSource, ABC):
    """A source that may have no published test rows; it then holds out some rows, the same for every `split_seed`."""

    test_fraction: float = 0.2  # of all rows, used if no test rows are published

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction is {self.test_fraction}; it must lie in (0, 1)")

    def hold_out_test(self, rows: Split, classes: tuple[str, ...]) -> PublishedDataset:
        """Holds out stratified test rows. Raises `ValueError` if a class has fewer than two rows."""
        check_labels(rows, part="train", classes=classes)
        counts = np.bincount(rows.labels, minlength=len(classes))
        smallest = int(np.argmin(counts))
        if counts[smallest] < 2:
            raise ValueError(
                f"class {classes[smallest]!r} has {counts[smallest]} rows and there is no test part; "
                f"it must have at least 2, so that one can be held out{base_hint(rows.labels)}"
            )
        # Seed 0 and not `split_seed`: every split of the set has the same test rows.
        train, test = hold_out(rows, round(self.test_fraction * len(rows)), seed=0, part="test")
        return PublishedDataset(classes=classes, train=train, test=test)
