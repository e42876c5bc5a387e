"""178 wines of three cultivars described by 13 chemical measurements, shipped with scikit-learn: a small table.

Features are standardised with the training rows. There is no published test part, so by default a fifth of the rows is held out.

Reference: Aeberhard and Forina, Wine, UCI repository, 1992
"""

from dataclasses import dataclass
from pathlib import Path

from pruneyard.workloads.data.dataset import PublishedDataset
from pruneyard.workloads.data.held_out import HeldOutTestSource
from pruneyard.workloads.data.scikit_learn import read_table

__all__ = ["Wine"]


@dataclass(frozen=True, kw_only=True)
class Wine(HeldOutTestSource):
    def inputs(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> PublishedDataset:
        return self.hold_out_test(*read_table("wine_data.csv"))
