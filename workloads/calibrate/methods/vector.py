"""Gives every class its own factor and its own bias, by least negative log-likelihood: vector scaling.

Reference: Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv:1706.04599)

z' = w * z + b. The penalty ridge * (sum of (w_k - 1)^2 + sum of b_k^2) is ours: it keeps the fit finite where a
class has no calibration rows or all rows are told apart; large, it gives the network's own probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, PostHoc, in_one_order
from pruneyard.workloads.calibrate.linear_fit import LinearScores, fit_linear, typical_size

__all__ = ["Vector"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedVector(Fitted):
    weight: Floats  # (C,)
    bias: Floats  # (C,)
    converged: NDArray[np.int64]  # (): 0 or 1

    @property
    def numbers(self) -> Mapping[str, float]:
        """Whether the gradient vanished."""
        return {"converged": float(self.converged)}

    def _map(self, logits_MC: Floats) -> Floats:
        return np.asarray(log_softmax(logits_MC * self.weight + self.bias, axis=1))


@dataclass(frozen=True, kw_only=True)
class Vector(PostHoc):
    ridge: float = 1e-4  # in nats per squared distance from the identity

    becomes: ClassVar[type[Fitted]] = FittedVector

    def __post_init__(self) -> None:
        if not 0 <= self.ridge < float("inf"):
            raise ValueError(f"ridge is {self.ridge}; it must be 0 or more, and finite")

    @property
    def keeps_argmax(self) -> bool:
        """No: classes are scaled and moved apart."""
        return False

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedVector:
        logits_NC, labels_N = in_one_order(logits_NC, labels_N)
        size, num_classes = typical_size(logits_NC), logits_NC.shape[1]
        scaled_NC = logits_NC / size
        model = LinearScores(
            scores=lambda point_P: scaled_NC * point_P[:num_classes] + point_P[num_classes:],
            adjoint=lambda errors_NC: np.concatenate(
                [(errors_NC * scaled_NC).sum(axis=0), errors_NC.sum(axis=0)]
            ),
        )
        found_P, converged = fit_linear(
            model,
            labels_N,
            start_P=np.repeat([size, 0.0], num_classes),
            penalty_P=np.repeat([self.ridge / size**2, self.ridge], num_classes),
        )
        return FittedVector(
            num_classes=np.array(num_classes),
            weight=found_P[:num_classes] / size,
            bias=found_P[num_classes:],
            converged=np.array(int(converged)),
        )
