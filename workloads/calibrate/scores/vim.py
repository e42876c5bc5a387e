"""ViM: energy minus a virtual logit, the norm of the features outside the principal space of training features.

The origin is -pinv(W) b, where all logits are closest to 0; the principal space is spanned by the leading eigenvectors of the
second moment about it. The residual norm is scaled so that its mean over training rows equals that of the largest logit.

Reference: Wang, Li, Feng and Zhang 2022, ViM: Out-Of-Distribution with Virtual-logit Matching (arXiv:2203.10807)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from scipy.special import logsumexp

from pruneyard.workloads.calibrate.evidence import AsGiven, Evidence, Floats, blocks
from pruneyard.workloads.calibrate.feature_statistics import scatter
from pruneyard.workloads.calibrate.score import Learned, Rule

__all__ = ["ViM"]

SMALLEST = 1e-9  # a smaller residual, relative to the feature norm, is rounding error


@dataclass(frozen=True, kw_only=True)
class ViM(Learned):
    """Score logsumexp(z) - alpha |R'(h - o)|."""

    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({"principal": (0.25, 0.5, 0.75)})

    principal: float = 0.5  # fraction of the d directions; the paper gives a number per network

    def __post_init__(self) -> None:
        if not 0 < self.principal < 1:
            raise ValueError(f"principal is {self.principal}; it must lie in (0, 1)")

    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        weight, bias = train.class_layer
        width = weight.shape[1]
        if width < 2:
            raise ValueError("the last layer has 1 input feature; vim needs at least 2")
        dimension = min(max(round(self.principal * width), 1), width - 1)
        origin = -np.linalg.pinv(weight) @ bias
        second_moment = scatter(train.features, origin[None])
        _, directions = np.linalg.eigh(second_moment)  # in ascending order of eigenvalues
        # The directions of least variance: all that are not principal.
        outside = directions[:, : width - dimension]
        residual = float(residual_lengths(train.features, origin, outside).mean())
        # Otherwise alpha would be the quotient of a logit and a rounding error.
        if not residual > SMALLEST * np.sqrt(np.trace(second_moment)):
            raise ValueError(
                f"principal is {self.principal}, for which the training features have no residual"
            )
        largest = float(train.class_logits.max(axis=1).mean())
        if not largest > 0:
            raise ValueError(
                f"the mean largest logit of the training rows is {largest:.3g}; it must be above 0"
            )
        alpha = largest / residual

        def rule(evidence: Evidence) -> Floats:
            return virtual_logit_score(evidence, origin, outside, alpha)

        return rule, {"alpha": alpha, "dimension": float(dimension)}


def virtual_logit_score(evidence: Evidence, origin: Floats, outside: Floats, alpha: float) -> Floats:
    """Returns energy minus `alpha` times the norm of features about `origin: (d,)` in the directions `outside: (d, R)`, (N,)."""
    energy = logsumexp(evidence.class_logits, axis=1)
    return np.asarray(energy - alpha * residual_lengths(evidence.features, origin, outside))


def residual_lengths(features: AsGiven, origin: Floats, outside: Floats) -> Floats:
    """Returns residual norms (N,)."""
    found = np.empty(len(features))
    for rows in blocks(len(features)):
        found[rows] = np.linalg.norm((features[rows].astype(np.float64) - origin) @ outside, axis=1)
    return found
