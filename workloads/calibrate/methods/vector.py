"""Vector scaling: a factor and a bias per class, fitted by negative log-likelihood.

Reference: Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv:1706.04599)

z' = w * z + b, on logits divided by the temperature of temperature scaling, so w = 1, b = 0 equals temperature scaling and
the scale of the logits does not matter. The penalty ridge * (sum of (w_k - 1)^2 + sum of b_k^2) is our addition: it keeps the
fit finite for a class without calibration rows and for separable rows. By default `ridge` is chosen by five-fold
cross-validation on the calibration rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels
from pruneyard.workloads.calibrate.common_scale import (
    FittedOnCommonScale,
    OnCommonScale,
    choose_penalty,
    warn_of_few_rows,
)
from pruneyard.workloads.calibrate.large_vector_fit import fit_large_vector
from pruneyard.workloads.calibrate.linear_fit import LinearScores, fit_linear, typical_size

__all__ = ["Vector"]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
MANY_VALUES = 10_000_000  # logits from which on rows are fitted in float32: in float64 they take many minutes


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedVector(FittedOnCommonScale):
    """The factor and bias of every class."""

    weight: Floats  # (C,)
    bias: Floats  # (C,)
    ridge: Floats  # (): given or chosen
    converged: NDArray[np.int64]  # (): 0 or 1

    @property
    def numbers(self) -> Mapping[str, float]:
        """Returns 1 if the gradient vanished, else 0, and the ridge that was used."""
        return {"converged": float(self.converged), "ridge": float(self.ridge)}

    def _map(self, logits_MC: Floats) -> Floats:
        return np.asarray(log_softmax(logits_MC * self.weight + self.bias, axis=1))


@dataclass(frozen=True, kw_only=True)
class Vector(OnCommonScale):
    """Vector scaling."""

    ridge: float | None = None  # in nats per squared distance from temperature scaling; None: chosen by cross-validation

    becomes: ClassVar[type[Fitted]] = FittedVector

    def __post_init__(self) -> None:
        if self.ridge is not None and not 0 <= self.ridge < float("inf"):
            raise ValueError(f"ridge is {self.ridge}; it must be 0 or more, and finite")

    def never_raises_nll(self, num_classes: int) -> bool:
        """Returns True: the identity is one of the maps, and the fit minimises the NLL."""
        return True

    @property
    def keeps_argmax(self) -> bool:
        """False: every class has its own factor and bias."""
        return False

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedVector:
        warn_of_few_rows("vector", 2 * logits_NC.shape[1], len(labels_N))
        ridge = choose_penalty(RIDGES, _fitted, logits_NC, labels_N) if self.ridge is None else self.ridge
        return _fitted(logits_NC, labels_N, ridge)


def _fitted(logits_NC: Floats, labels_N: Labels, ridge: float) -> FittedVector:
    size, num_classes = typical_size(logits_NC), logits_NC.shape[1]
    scaled_NC = logits_NC / size
    # The factors of scaled logits are `size` times larger; the penalty is divided by its square to mean the same.
    start_P, penalty_P = np.repeat([size, 0.0], num_classes), np.repeat([ridge / size**2, ridge], num_classes)
    if logits_NC.size >= MANY_VALUES:
        found_P, converged = fit_large_vector(scaled_NC, labels_N, start_P=start_P, penalty_P=penalty_P)
    else:
        model = LinearScores(
            scores=lambda point_P: scaled_NC * point_P[:num_classes] + point_P[num_classes:],
            adjoint=lambda errors_NC: np.concatenate([(errors_NC * scaled_NC).sum(axis=0), errors_NC.sum(axis=0)]),
        )
        found_P, converged = fit_linear(model, labels_N, start_P=start_P, penalty_P=penalty_P)
    return FittedVector(
        num_classes=np.array(num_classes),
        weight=found_P[:num_classes] / size,
        bias=found_P[num_classes:],
        ridge=np.array(ridge),
        converged=np.array(int(converged)),
    )
