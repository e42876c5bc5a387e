"""Maps logits by a full matrix and a bias, by least negative log-likelihood with a penalty off the diagonal.

Reference: Guo et al. 2017 (arXiv:1706.04599); the penalty (ODIR) is that of Kull et al. 2019 (arXiv:1910.12656)

z' = W z + b has C^2 + C numbers and overfits where rows are fewer than some ten times that; the penalty is off_diagonal
* (mean of W_ij^2 over i != j) + bias * (mean of b_i^2). With a very large `off_diagonal` it is vector scaling. `ridge`
* (sum of (W_ii - 1)^2) is ours and small: it keeps the diagonal finite where all rows are told apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, PostHoc, in_one_order
from pruneyard.workloads.calibrate.linear_fit import fit_matrix

__all__ = ["Matrix"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedMatrix(Fitted):
    weight: Floats  # (C, C): row i makes logit i
    bias: Floats  # (C,)
    converged: NDArray[np.int64]  # (): 0 or 1

    @property
    def numbers(self) -> Mapping[str, float]:
        """Whether the gradient vanished."""
        return {"converged": float(self.converged)}

    def _map(self, logits_MC: Floats) -> Floats:
        return np.asarray(log_softmax(logits_MC @ self.weight.T + self.bias, axis=1))


@dataclass(frozen=True, kw_only=True)
class Matrix(PostHoc):
    off_diagonal: float = 0.1  # in nats, for off-diagonal weights of root mean square 1
    bias: float = 0.1  # in nats, for biases of root mean square 1
    ridge: float = 1e-4  # in nats per squared distance of the diagonal from the identity

    becomes: ClassVar[type[Fitted]] = FittedMatrix

    def __post_init__(self) -> None:
        for name in ("off_diagonal", "bias", "ridge"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more, and finite")

    @property
    def keeps_argmax(self) -> bool:
        """No: classes are mixed."""
        return False

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedMatrix:
        weight_CC, bias_C, converged = fit_matrix(
            *in_one_order(logits_NC, labels_N),
            off_diagonal=self.off_diagonal,
            bias=self.bias,
            ridge=self.ridge,
        )
        return FittedMatrix(
            num_classes=np.array(len(bias_C)),
            weight=weight_CC,
            bias=bias_C,
            converged=np.array(int(converged)),
        )
