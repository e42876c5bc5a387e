"""Averages the members of an ensemble, MC-dropout passes or SWAG samples, and measures their disagreement.

Members are averaged as probabilities, before calibration.
Dimensions: M members, N rows, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax, xlogy

from pruneyard.workloads.metrics.probabilities import check_probabilities

Floats = NDArray[np.float64]

UNCERTAINTY_METRICS = {
    "entropy_total": "entropy of the members' mean probabilities, mean over samples, in nats",
    "entropy_aleatoric": "mean entropy of the members' own probabilities, in nats: uncertainty shared by all members",
    "entropy_epistemic": "entropy_total minus entropy_aleatoric: mutual information of class and member, in nats",
}


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """Mean probabilities `mean: (N, C)` of several members, and their uncertainty per row, (N,) in nats.

    total: entropy of the mean. aleatoric: mean entropy of the members. epistemic: their difference, the mutual information of
    class and member; 0 if all members agree.
    """

    mean: Floats
    total: Floats
    aleatoric: Floats
    epistemic: Floats

    @property
    def uncertainty(self) -> Mapping[str, Floats]:
        """The three uncertainties by their names in `UNCERTAINTY_METRICS`."""
        return dict(zip(UNCERTAINTY_METRICS, (self.total, self.aleatoric, self.epistemic), strict=True))


def pooled(probabilities: ArrayLike) -> Pooled:
    """Averages members' probabilities (M, N, C). Raises `ValueError` for no members, and for rows that are not distributions.

    Reference: Depeweg et al. 2018, Decomposition of Uncertainty in Bayesian Deep Learning (arXiv:1710.07283)
    """
    given = np.asarray(probabilities, dtype=np.float64)
    if given.ndim != 3 or len(given) == 0:
        raise ValueError(f"probabilities have shape {given.shape}; it must be (M, N, C) with M >= 1")
    members_MNC = np.stack([check_probabilities(member) for member in given])
    mean = members_MNC.mean(axis=0)
    total, aleatoric = entropies(mean), entropies(members_MNC).mean(axis=0)
    epistemic = np.maximum(total - aleatoric, 0.0)  # negative only by rounding, because entropy is concave
    return Pooled(mean=mean, total=total, aleatoric=aleatoric, epistemic=epistemic)


def pooled_logits(logits: ArrayLike) -> Pooled:
    """Averages members given as logits (M, N, C), as probabilities."""
    return pooled(softmax(np.asarray(logits, dtype=np.float64), axis=-1))


def entropies(probabilities: Floats) -> Floats:
    """Returns entropies (...) in nats of probabilities (..., C)."""
    # `xlogy` returns 0 for 0 log 0.
    return np.asarray(-xlogy(probabilities, probabilities).sum(axis=-1))
