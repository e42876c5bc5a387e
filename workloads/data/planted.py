"""Data of which it is known where in each row the signal is."""

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


@runtime_checkable
class PlantedSignal(Protocol):
    """A data source that knows the places of its rows that may tell the label."""

    def signal_places(self, images: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
        """Returns which places of images (N, C, H, W), as loaded, hold the signal: (N, H W)."""
        ...
