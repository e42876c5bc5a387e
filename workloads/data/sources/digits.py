"""1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn: the default, which needs no download.

Grey values 0 ... 16 are scaled to 0 ... 255. There is no published test part, so by default a fifth of the rows is held out.

Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruneyard.workloads.data.dataset import PublishedDataset, Split
from pruneyard.workloads.data.held_out import HeldOutTestSource
from pruneyard.workloads.data.scikit_learn import read_digits

__all__ = ["Digits"]


@dataclass(frozen=True, kw_only=True)
class Digits(HeldOutTestSource):
    def inputs(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> PublishedDataset:
        greys, classes = read_digits()
        images = np.rint(greys * (255 / 16)).astype(np.uint8)[:, None]
        return self.hold_out_test(Split.from_arrays(images, classes), tuple(str(digit) for digit in range(10)))
