"""Test rows for data whose publisher names none."""

from abc import ABC
from dataclasses import dataclass

import numpy as np

from pruneyard.workloads.data.dataset import Published, Publisher, Split, check_labels, hold_out


@dataclass(frozen=True, kw_only=True)
class HoldsOutTest(Publisher, ABC):
    """A source that may come without test rows; then it holds some out, the same for every `split_seed`."""

    test_fraction: float = 0.2  # of all rows, where no test rows are published

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction is {self.test_fraction}; it must lie in (0, 1)")

    def hold_out_test(self, rows: Split, classes: tuple[str, ...]) -> Published:
        """Cuts stratified test rows off; raises `ValueError` for a class of one row."""
        check_labels(rows, part="train", classes=classes)
        counts = np.bincount(rows.labels, minlength=len(classes))
        smallest = int(np.argmin(counts))
        if counts[smallest] < 2:
            raise ValueError(
                f"class {classes[smallest]!r} has {counts[smallest]} rows and there is no test part; "
                "it must have at least 2, so that one can be held out"
            )
        train, test = hold_out(rows, round(self.test_fraction * len(rows)), seed=0, part="test")
        return Published(classes=classes, train=train, test=test)
