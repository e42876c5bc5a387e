"""What several members say together of the same rows, and how far they differ: an ensemble, passes with dropout, draws of SWAG.

Members are pooled as probabilities, and what is calibrated is calibrated after that.
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
    "entropy_total": "mean entropy of the members' mean probabilities, in nats",
    "entropy_aleatoric": "mean over members of their own entropies: what they all say is uncertain",
    "entropy_epistemic": "entropy_total less entropy_aleatoric: how far members differ; their mutual information with the class",
}


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """Of every row: `mean: (N, C)` probabilities, and how uncertain they are, (N,) in nats.

    total: entropy of the mean. aleatoric: mean entropy of the members. epistemic: what is between the two, the mutual
    information of class and member; 0 where all members say the same.
    """

    mean: Floats
    total: Floats
    aleatoric: Floats
    epistemic: Floats

    @property
    def uncertainty(self) -> Mapping[str, Floats]:
        """By name in `UNCERTAINTY_METRICS`."""
        return dict(zip(UNCERTAINTY_METRICS, (self.total, self.aleatoric, self.epistemic), strict=True))


def pooled(probabilities: ArrayLike) -> Pooled:
    """Of members' probabilities (M, N, C). Raises `ValueError` for no members, and for rows that are no distribution.

    Reference: Depeweg et al. 2018, Decomposition of Uncertainty in Bayesian Deep Learning (arXiv:1710.07283)
    """
    given = np.asarray(probabilities, dtype=np.float64)
    if given.ndim != 3 or len(given) == 0:
        raise ValueError(f"probabilities have shape {given.shape}; it must be (M, N, C) with M >= 1")
    members_MNC = np.stack([check_probabilities(member) for member in given])
    mean = members_MNC.mean(axis=0)
    total, aleatoric = entropies(mean), entropies(members_MNC).mean(axis=0)
    epistemic = np.maximum(total - aleatoric, 0.0)  # below 0 by rounding alone: entropy is concave
    return Pooled(mean=mean, total=total, aleatoric=aleatoric, epistemic=epistemic)


def pooled_logits(logits: ArrayLike) -> Pooled:
    """Of members' logits (M, N, C)."""
    return pooled(softmax(np.asarray(logits, dtype=np.float64), axis=-1))


def entropies(probabilities: Floats) -> Floats:
    """In nats, (..., C) to (...)."""
    return np.asarray(-xlogy(probabilities, probabilities).sum(axis=-1))
