"""Dirichlet calibration: maps log-probabilities by a full matrix and a bias, with a penalty off the diagonal.

Reference: Kull et al. 2019, Beyond temperature scaling with Dirichlet calibration (arXiv:1910.12656)

softmax(W log p + b), fitted by NLL + off_diagonal * (mean of W_ij^2 over i != j) + bias * (mean of b_i^2): the penalty
ODIR. Unlike `matrix` it is invariant to a constant added to a row of logits. Our addition: p are the probabilities after
temperature scaling, so the identity equals temperature scaling. Without it, log-probabilities of a saturated network, in the
hundreds, leave the fit hundreds of nats from its minimum. Penalties are set or chosen as in `matrix`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import log_softmax

from pruneyard.workloads.calibrate.calibrator import Floats
from pruneyard.workloads.calibrate.methods.matrix import FittedMatrix, Matrix

__all__ = ["Dirichlet"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedDirichlet(FittedMatrix):
    """The matrix and bias of the log-probabilities."""

    def _map(self, logits_MC: Floats) -> Floats:
        return super()._map(log_softmax(logits_MC, axis=1))


@dataclass(frozen=True, kw_only=True)
class Dirichlet(Matrix):
    """Dirichlet calibration with the ODIR penalty."""

    becomes: ClassVar[type[FittedMatrix]] = FittedDirichlet

    def features(self, logits_NC: Floats) -> Floats:
        """Returns log-probabilities `(N, C)`."""
        return np.asarray(log_softmax(logits_NC, axis=1))
