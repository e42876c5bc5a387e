"""1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn: the default that needs no download.

Grey values 0 ... 16 are scaled to 0 ... 255. No test rows are published, so a fifth is held out.

Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998
"""

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits

from pruneyard.workloads.data.dataset import Published, Split
from pruneyard.workloads.data.held_out import HoldsOutTest

__all__ = ["Digits"]


@dataclass(frozen=True, kw_only=True)
class Digits(HoldsOutTest):
    def read(self) -> Published:
        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
        return self.hold_out_test(
            Split.from_arrays(images, bunch.target), tuple(str(digit) for digit in bunch.target_names)
        )
