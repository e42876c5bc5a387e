"""569 tumours, malignant or benign, by 30 measurements of cell nuclei: a table that scikit-learn contains.

Features are standardised with the training rows. There is no published test part, so by default a fifth of the rows is held out.

Reference: Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic), UCI repository, 1993
"""

from dataclasses import dataclass
from pathlib import Path

from pruneyard.workloads.data.dataset import PublishedDataset
from pruneyard.workloads.data.held_out import HeldOutTestSource
from pruneyard.workloads.data.scikit_learn import read_table

__all__ = ["BreastCancer"]


@dataclass(frozen=True, kw_only=True)
class BreastCancer(HeldOutTestSource):
    def inputs(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> PublishedDataset:
        return self.hold_out_test(*read_table("breast_cancer.csv"))
