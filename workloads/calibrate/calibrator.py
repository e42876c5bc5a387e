"""What a post-hoc calibrator is: options before it is fitted, and another type after, so that neither is taken for the other."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class FittedCalibrator(Protocol):
    """A map from logits to calibrated probabilities, fitted to one network's outputs on held-out rows."""

    @property
    def tensors(self) -> Mapping[str, NDArray[np.generic]]:
        """Everything that was fitted, by name."""
        ...

    @property
    def numbers(self) -> Mapping[str, float]:
        """The few of it that a table should show, such as the temperature."""
        ...

    def log_probabilities(self, logits: Floats) -> Floats:
        """Of logits `(M, C)`: log-probabilities `(M, C)`, every row a distribution; -inf stands for 0."""
        ...


class Calibrator(Protocol):
    """A plug-in of the family `calibrate.methods`: how to fit, and with what options."""

    @property
    def keeps_argmax(self) -> bool:
        """Whether no prediction ever changes, so that accuracy stays the same to the last row."""
        ...

    def fit(self, logits: Floats, labels: Labels, *, seed: int) -> FittedCalibrator:
        """Fits on logits `(N, C)` and labels `(N,)` in [0, C) of rows that nothing was trained on.

        `seed` decides all draws. Raises `ValueError` for input that no calibrator can be fitted to: no rows, numbers that
        are not finite, labels out of range or all of one class.
        """
        ...
