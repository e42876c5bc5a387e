"""1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn: the default that needs no download.

Grey values 0 ... 16 are scaled to 0 ... 255. No test rows are published, so a fifth is held
out, the same fifth for every `split_seed`.

Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998
"""

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits

from workloads.data.dataset import Published, Source, Split, hold_out

__all__ = ["Digits"]


@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    test_fraction: float = 0.2  # of all rows

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"test_fraction is {self.test_fraction}; it must lie in (0, 1)")

    def read(self) -> Published:
        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
        rows = Split.from_arrays(images, bunch.target)
        train, test = hold_out(rows, round(self.test_fraction * len(rows)), seed=0, part="test", leave=3)
        return Published(classes=tuple(str(digit) for digit in bunch.target_names), train=train, test=test)
