"""Energy scores over modified features, and activation shaping, for ASH, SCALE, ReAct and DICE.

Dimensions: N rows, K classes, d features.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from pruneyard.workloads.calibrate.evidence import Evidence, Floats, blocks


def energy_of_features(
    evidence: Evidence, change: Callable[[Floats], Floats], weight: Floats, bias: Floats
) -> Floats:
    """Returns logsumexp of W change(h) + b over the classes, (N,).

    change: maps features (B, d) of some rows to (B, d). weight: (K, d), bias: (K,).
    """
    features = evidence.features
    found = np.empty(len(features))
    for rows in blocks(len(features)):
        found[rows] = logsumexp(change(features[rows].astype(np.float64)) @ weight.T + bias, axis=1)
    return found


def shaped_energy(evidence: Evidence, shape: Callable[[Floats], Floats]) -> Floats:
    """Returns `energy_of_features` with the network's last layer. Raises `ValueError` for negative features."""
    negative = (evidence.features < 0).any(axis=1)
    if negative.any():
        row = int(negative.argmax())
        raise ValueError(
            f"row {row} has feature {evidence.features[row].min()}; activations must not be negative"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # `FittedScore.score` rejects scores that are not finite
        return energy_of_features(evidence, shape, *evidence.class_layer)


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
