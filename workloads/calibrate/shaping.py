"""Activation shaping for ASH and SCALE. Dimensions: N rows, d features."""

import numpy as np
from numpy.typing import NDArray

from pruneyard.workloads.calibrate.evidence import Floats


def largest(rows_ND: Floats, prune: float) -> NDArray[np.bool_]:
    """Returns a mask of the d - round(prune d) largest activations (at least one) in each row of `(N, d)`.

    Among equal activations the first are kept.
    """
    num_rows, width = rows_ND.shape
    num_kept = max(width - round(prune * width), 1)
    kept = np.zeros((num_rows, width), dtype=bool)
    # A stable sort and no partition, because a partition would keep any of several equal activations.
    order = np.argsort(-rows_ND, axis=1, kind="stable")[:, :num_kept]
    np.put_along_axis(kept, order, True, axis=1)
    return kept


def growth(rows_ND: Floats, kept: NDArray[np.bool_]) -> Floats:
    """Returns scaling factors (N, 1): exp(sum of a row / sum of its kept values); 1 for rows of zeros."""
    whole, part = rows_ND.sum(axis=1, keepdims=True), np.where(kept, rows_ND, 0).sum(axis=1, keepdims=True)
    # Rows of zeros keep the ratio 0.
    ratio = np.divide(whole, part, out=np.zeros_like(whole), where=part > 0)
    return np.asarray(np.exp(ratio))


def check_prune(prune: float) -> None:
    """Raises `ValueError` for a pruned fraction outside [0, 1)."""
    if not 0 <= prune < 1:
        raise ValueError(f"prune is {prune}; it must lie in [0, 1)")
