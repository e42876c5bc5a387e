"""Tables that are part of scikit-learn, as splits of features."""

from typing import Any

import numpy as np

from pruneyard.workloads.data.dataset import Split


def rows_and_classes(bunch: Any) -> tuple[Split, tuple[str, ...]]:
    """Returns all rows of a classification set that a loader of `sklearn.datasets` returned, and the names of its classes."""
    rows = Split.from_arrays(bunch.data.astype(np.float32), bunch.target, pixels=False)
    return rows, tuple(str(name) for name in bunch.target_names)
