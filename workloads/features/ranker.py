"""The protocol of a method that ranks features, and the progress of one that trains no network."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.feature_ranking import FILE, to_bytes
from pruneyard.workloads.workload import Context, Outcome, Progress


class FeatureRanker(Protocol):
    """A frozen dataclass in `workloads/features/methods`. It sees no labels."""

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns the FLOPs that dense kernels would execute and the optimizer steps, for rows of features (N, F)."""
        ...

    def rank(self, data: Dataset, *, seed: int, context: Context) -> Iterator[Progress]:
        """Ranks the features of `data`, whose rows are (N, F); the files of the last progress's outcome contain `FILE`."""
        ...


def untrained_progress(strength: npt.NDArray[np.number], *, wall_s: float) -> Progress:
    """Returns the only progress of a method that trains no network."""
    outcome = Outcome.without_network(train_s=wall_s, files={FILE: to_bytes(strength)})
    return Progress(step=1, num_steps=1, metrics=(), outcome=outcome)
