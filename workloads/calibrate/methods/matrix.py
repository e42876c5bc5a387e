"""Matrix scaling: maps logits by a full matrix and a bias, fitted by NLL with a penalty off the diagonal.

Reference: Guo et al. 2017 (arXiv:1706.04599); the penalty (ODIR) is that of Kull et al. 2019 (arXiv:1910.12656)

z' = W z + b, on logits divided by the temperature of temperature scaling: W = I, b = 0 equals temperature scaling, and the scale
of the logits does not matter. It has C^2 + C parameters and overfits with fewer than about ten times as many rows. The penalty
is off_diagonal * (mean of W_ij^2 over i != j) + bias * (mean of b_i^2) + ridge * (sum of (W_ii - 1)^2); the last term is our
addition. By default `off_diagonal` is chosen by five-fold cross-validation on the calibration rows, with bias = off_diagonal and
ridge = off_diagonal / C. With a very large `off_diagonal` only, it becomes vector scaling; with all three large, temperature
scaling. Beyond 316 classes nothing is chosen: off_diagonal is 100, since rows are few for so many weights, and the matrix is
fitted in float32 by at most 40 passes over the rows.
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
from pruneyard.workloads.calibrate.linear_fit import MANY_WEIGHTS, fit_matrix

__all__ = ["Matrix"]

STRENGTHS = (1e-2, 1e-1, 1.0, 10.0, 100.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedMatrix(FittedOnCommonScale):
    """The matrix and bias of the logits."""

    weight: Floats  # (C, C): row i gives output i
    bias: Floats  # (C,)
    off_diagonal: Floats  # (): given or chosen
    converged: NDArray[np.int64]  # (): 0 or 1

    @property
    def numbers(self) -> Mapping[str, float]:
        """Returns 1 if the gradient vanished, else 0, and the penalty that was used."""
        return {"converged": float(self.converged), "off_diagonal": float(self.off_diagonal)}

    def _map(self, logits_MC: Floats) -> Floats:
        return np.asarray(log_softmax(logits_MC @ self.weight.T + self.bias, axis=1))


@dataclass(frozen=True, kw_only=True)
class Matrix(OnCommonScale):
    """Matrix scaling with the ODIR penalty."""

    off_diagonal: float | None = None  # in nats, for off-diagonal weights of root mean square 1; None: by cross-validation
    bias: float | None = None  # in nats, for biases of root mean square 1; None: as off_diagonal
    ridge: float | None = None  # in nats per squared distance of the diagonal from the identity; None: off_diagonal / C

    becomes: ClassVar[type[FittedMatrix]] = FittedMatrix

    def __post_init__(self) -> None:
        for name in ("off_diagonal", "bias", "ridge"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be 0 or more, and finite")

    def never_raises_nll(self, num_classes: int) -> bool:
        """Returns True: the identity is one of the maps, and the fit minimises the NLL."""
        return True

    @property
    def keeps_argmax(self) -> bool:
        """False: every output depends on all classes."""
        return False

    def features(self, logits_NC: Floats) -> Floats:
        """Returns the inputs `(N, C)` of the matrix."""
        return logits_NC

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> Fitted:
        num_classes = logits_NC.shape[1]
        warn_of_few_rows("a matrix", num_classes * (num_classes + 1), len(labels_N))
        strength = self.off_diagonal
        if strength is None and num_classes**2 > MANY_WEIGHTS:
            strength = STRENGTHS[-1]
        elif strength is None:
            strength = choose_penalty(STRENGTHS, self._fitted, logits_NC, labels_N)
        return self._fitted(logits_NC, labels_N, strength)

    def _fitted(self, logits_NC: Floats, labels_N: Labels, strength: float) -> Fitted:
        weight_CC, bias_C, converged = fit_matrix(
            self.features(logits_NC),
            labels_N,
            off_diagonal=strength,
            bias=strength if self.bias is None else self.bias,
            ridge=strength / logits_NC.shape[1] if self.ridge is None else self.ridge,
        )
        return self.becomes(
            num_classes=np.array(len(bias_C)),
            weight=weight_CC,
            bias=bias_C,
            off_diagonal=np.array(strength),
            converged=np.array(int(converged)),
        )
