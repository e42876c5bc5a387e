"""Fits a factor and a bias per class to the labels of many rows, in float32 and in few passes over the rows.

With 1,000 classes and 50,000 rows, `linear_fit` takes many minutes in float64. Here rows are read in blocks that fit the
processor's cache; sums over blocks and the optimizer use float64. Parameters are scaled by their curvature at the start, so that
L-BFGS needs about ten passes.
"""

import logging
from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from pruneyard.workloads.calibrate.calibrator import Floats, Labels

BLOCK_VALUES = 250_000  # of a block of rows; 1 MB
MAX_PASSES = 100  # over the rows
ENOUGH = 1e-6  # largest derivative after scaling, in nats per standard deviation of a parameter, at which a fit has converged
LEAST_CURVATURE = 1e-8  # of a class that no row could be

log = logging.getLogger(__name__)


class _Rows:
    """Rows in blocks. A point is the factors of all classes, then their biases: (2C,)."""

    def __init__(self, features_NC: Floats, labels_N: Labels) -> None:
        self.num_rows, self.num_classes = features_NC.shape
        size = max(1, BLOCK_VALUES // self.num_classes)
        self._blocks = torch.from_numpy(features_NC.astype(np.float32)).split(size)
        self._labels = torch.from_numpy(labels_N).split(size)

    def loss_and_gradient(self, point_P: Floats) -> tuple[float, Floats]:
        """Returns the mean NLL and its gradient."""
        nll, gradient_2C = 0.0, np.zeros((2, self.num_classes))
        for features, labels, log_p in self._log_probabilities(point_P):
            rows = torch.arange(len(labels))
            nll -= float(log_p[rows, labels].double().sum())
            p = log_p.exp_()
            p[rows, labels] -= 1
            gradient_2C[0] += (p * features).sum(dim=0).double().numpy()
            gradient_2C[1] += p.sum(dim=0).double().numpy()
        return nll / self.num_rows, gradient_2C.ravel() / self.num_rows

    def curvature(self, point_P: Floats) -> Floats:
        """Returns the diagonal of the Hessian of the mean NLL, (2C,)."""
        sums_2C = np.zeros((2, self.num_classes))
        for features, _, log_p in self._log_probabilities(point_P):
            p = log_p.exp_()
            p -= p * p
            sums_2C[0] += (p * features * features).sum(dim=0).double().numpy()
            sums_2C[1] += p.sum(dim=0).double().numpy()
        mean_2C: Floats = sums_2C.ravel() / self.num_rows
        return mean_2C

    def _log_probabilities(self, point_P: Floats) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields features, labels and log-probabilities of every block; the last may be overwritten."""
        factors_C, biases_C = torch.from_numpy(point_P.astype(np.float32)).split(self.num_classes)
        for features, labels in zip(self._blocks, self._labels, strict=True):
            scores: Tensor = torch.addcmul(biases_C, features, factors_C)
            scores -= scores.logsumexp(dim=1, keepdim=True)
            yield features, labels, scores


def fit_large_vector(features_NC: Floats, labels_N: Labels, *, start_P: Floats, penalty_P: Floats) -> tuple[Floats, bool]:
    """Returns the parameters (2C,) of scores features * factors + biases, and whether the fit converged.

    They minimise the mean NLL plus sum(penalty * (parameters - start)^2), and are never worse than the start.
    """
    rows = _Rows(features_NC, labels_N)
    scale_P = (np.maximum(rows.curvature(start_P), LEAST_CURVATURE) + 2 * penalty_P) ** -0.5

    def function(free_P: Floats) -> tuple[float, Floats]:
        change_P = scale_P * free_P
        nll, gradient_P = rows.loss_and_gradient(start_P + change_P)
        loss = nll + float((penalty_P * change_P**2).sum())
        return loss, scale_P * (gradient_P + 2 * penalty_P * change_P)

    # L-BFGS accepts no step that raises the loss, and returns the last point that it accepted.
    options = {"maxfun": MAX_PASSES, "maxiter": MAX_PASSES, "gtol": ENOUGH, "ftol": 1e-10}
    found = minimize(function, np.zeros_like(start_P), jac=True, method="L-BFGS-B", options=options)
    if not found.success:
        log.warning("a fit of %d parameters to %d rows did not converge: %s", len(start_P), len(labels_N), found.message)
    return start_P + scale_P * found.x, bool(found.success)
