"""The file of a ranking of features, which a job of kind `features` writes and the data source `top_features` reads."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

FILE = "ranking.safetensors"  # among the artifacts of a run
_STRENGTH = "strength"


def to_bytes(strength: npt.NDArray[np.number]) -> bytes:
    """Returns the content of `FILE` for the strength of every feature, (F,)."""
    return safetensors.numpy.save({_STRENGTH: np.ascontiguousarray(strength, dtype=np.float64)})


def read_order(path: Path) -> npt.NDArray[np.int64]:
    """Returns the features from the strongest to the weakest, (F,); of equal ones the first in the data comes first.

    Raises `ValueError` for a file that is no ranking.
    """
    try:
        strength = safetensors.numpy.load(path.read_bytes())[_STRENGTH]
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is no ranking of features: {error}") from error
    return np.argsort(-strength, kind="stable")
