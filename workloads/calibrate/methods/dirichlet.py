"""Maps log-probabilities by a full matrix and a bias, with a penalty off the diagonal: Dirichlet calibration.

Reference: Kull et al. 2019, Beyond temperature scaling with Dirichlet calibration (arXiv:1910.12656)

softmax(W log p + b), by least NLL + off_diagonal * (mean of W_ij^2 over i != j) + bias * (mean of b_i^2): the penalty
ODIR. Unlike `matrix` it does not see a constant added to a row of logits. Ours: p are the probabilities after temperature
scaling, which is what the identity gives; without it a saturated network's log-probabilities, in the hundreds, leave the fit
hundreds of nats from its minimum. Penalties are chosen and given as those of `matrix`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import log_softmax

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats
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

    def features(self, logits_NC: Floats) -> Floats:
        """Returns log-probabilities `(N, C)`."""
        return np.asarray(log_softmax(logits_NC, axis=1))
