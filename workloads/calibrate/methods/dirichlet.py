"""Maps log-probabilities by a full matrix and a bias, with a penalty off the diagonal: Dirichlet calibration.

Reference: Kull et al. 2019, Beyond temperature scaling with Dirichlet calibration (arXiv:1910.12656)

softmax(W log p + b), by least NLL + off_diagonal * (mean of W_ij^2 over i != j) + bias * (mean of b_i^2): the penalty
ODIR. Unlike `matrix` it does not see a constant added to a row of logits. `ridge` * (sum of (W_ii - 1)^2) is ours and
small.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import log_softmax

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, in_one_order
from pruneyard.workloads.calibrate.linear_fit import fit_matrix
from pruneyard.workloads.calibrate.methods.matrix import FittedMatrix, Matrix

__all__ = ["Dirichlet"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedDirichlet(FittedMatrix):
    """The same numbers, for log-probabilities."""

    def _map(self, logits_MC: Floats) -> Floats:
        return super()._map(log_softmax(logits_MC, axis=1))


@dataclass(frozen=True, kw_only=True)
class Dirichlet(Matrix):
    becomes: ClassVar[type[Fitted]] = FittedDirichlet

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedDirichlet:
        logits_NC, labels_N = in_one_order(logits_NC, labels_N)
        weight_CC, bias_C, converged = fit_matrix(
            log_softmax(logits_NC, axis=1),
            labels_N,
            off_diagonal=self.off_diagonal,
            bias=self.bias,
            ridge=self.ridge,
        )
        return FittedDirichlet(
            num_classes=np.array(len(bias_C)),
            weight=weight_CC,
            bias=bias_C,
            converged=np.array(int(converged)),
        )
