"""Fits a large matrix of weights and a bias to the labels of many rows, in float32 and in few passes over the rows.

With 1,000 classes, `linear_fit` needs hundreds of passes in float64. Here a pass is two matrix products in float32; sums over
rows and the optimizer use float64. Parameters are preconditioned by the curvature at the start, so that L-BFGS needs a few dozen
passes.
"""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from pruneyard.workloads.calibrate.calibrator import Floats, Labels

MAX_PASSES = 40  # over the rows
ENOUGH = 1e-5  # gradient norm, in nats, at which a fit ends
LEAST_GAIN = 2e-5  # nats in `GAIN_PASSES` steps: a fit that gains less ends, because held-out rows could not tell
GAIN_PASSES = 5
CONVERGED = 1e-2  # gradient norm, in nats, below which a fit counts as converged, as in `linear_fit` with a million parameters
LEAST_CURVATURE = 1e-9  # of a penalty, so that it can be divided by

log = logging.getLogger(__name__)


class _EndOfFitError(Exception):
    """Ends the optimizer from within its function."""


@dataclass(frozen=True, kw_only=True)
class _Preconditioner:
    """A linear map from free numbers (C, D) to changes of parameters (C, D), in which the curvature is about 1; and its adjoint.

    Row c of the parameters is (scales_c * row_c) @ basis, after the part of row_c along `along_c` is multiplied by 1 - damping_c.
    """

    scales_CD: Floats
    basis_DD: Floats
    along_CD: Floats  # unit vectors: the direction of the parameter on the diagonal
    damping_C1: Floats

    @classmethod
    def of(cls, *, scales_CD: Floats, basis_DD: Floats, excess_C: Floats) -> "_Preconditioner":
        """excess_C: the curvature of the parameters on the diagonal beyond the one that `scales` and `basis` make 1."""
        along_CD = scales_CD * basis_DD[:, : len(scales_CD)].T
        sizes_C1 = np.linalg.norm(along_CD, axis=1, keepdims=True)
        damping_C1 = 1 - (1 + excess_C[:, None] * sizes_C1**2) ** -0.5
        return cls(scales_CD=scales_CD, basis_DD=basis_DD, along_CD=along_CD / sizes_C1, damping_C1=damping_C1)

    def parameters(self, free_CD: Floats) -> Floats:
        return np.asarray((self.scales_CD * self._damped(free_CD)) @ self.basis_DD)

    def adjoint(self, gradient_CD: Floats) -> Floats:
        return self._damped(self.scales_CD * (gradient_CD @ self.basis_DD.T))

    def _damped(self, rows_CD: Floats) -> Floats:
        along_C1 = (rows_CD * self.along_CD).sum(axis=1, keepdims=True)
        return np.asarray(rows_CD - self.damping_C1 * along_C1 * self.along_CD)


@dataclass(kw_only=True)
class _Problem:
    """Mean NLL of scores features @ parameters.T, plus sum(penalty * (parameters - start)^2). D features, C classes."""

    features_ND: Tensor  # float32
    labels_N: Tensor
    start_CD: Floats
    penalty_CD: Floats
    scores_NC: Tensor = field(init=False)  # of the latest point; allocated once
    best_CD: Floats = field(init=False)
    losses: list[float] = field(default_factory=list)  # of the points that were better than all before
    gradient_norm: float = np.inf  # at the best point
    num_passes: int = 0

    def __post_init__(self) -> None:
        self.scores_NC = torch.empty((len(self.features_ND), len(self.start_CD)))
        self.best_CD = self.start_CD

    def loss_and_gradient(self, point_CD: Floats) -> tuple[float, Floats]:
        nll = self._softmax(point_CD)
        self.scores_NC[torch.arange(len(self.labels_N)), self.labels_N] -= 1
        distance_CD = point_CD - self.start_CD
        gradient_CD = (self.scores_NC.T @ self.features_ND).double().numpy() / len(self.labels_N)
        gradient_CD += 2 * self.penalty_CD * distance_CD
        loss = nll + float((self.penalty_CD * distance_CD**2).sum())
        self.num_passes += 1
        if not self.losses or loss < self.losses[-1]:
            self.losses.append(loss)
            self.best_CD, self.gradient_norm = point_CD, float(np.linalg.norm(gradient_CD))
        return loss, gradient_CD

    def preconditioner(self) -> "_Preconditioner":
        """Returns the preconditioner of the curvature at the start.

        The curvature of row c of the parameters is taken to be h_c S + penalty, where h_c is the mean of p_c (1 - p_c) and S the
        second moment of the features, in which rows count by the uncertainty of their prediction. The penalty is the smallest of
        each feature, so that both are diagonal in one basis for all rows, and another one on the diagonal of the parameters.
        """
        self._softmax(self.start_CD)
        weights_N1 = 1 - (self.scores_NC**2).sum(dim=1, keepdim=True)
        moment_DD = (self.features_ND.T @ (self.features_ND * weights_N1)).double().numpy() / float(weights_N1.double().sum())
        curvature_C = (self.scores_NC * (1 - self.scores_NC)).mean(dim=0, dtype=torch.float64).numpy()
        least_D = np.maximum(2 * self.penalty_CD.min(axis=0), LEAST_CURVATURE)
        values_D, basis_DD = np.linalg.eigh(moment_DD / np.sqrt(np.outer(least_D, least_D)))
        num_classes = len(self.start_CD)
        return _Preconditioner.of(
            scales_CD=(np.outer(curvature_C, np.maximum(values_D, 0)) + 1) ** -0.5,
            basis_DD=basis_DD.T / np.sqrt(least_D),
            excess_C=np.maximum(2 * np.diagonal(self.penalty_CD) - least_D[:num_classes], 0),
        )

    def free_shift(self) -> Floats:
        """Returns what can be subtracted from all rows of the best parameters, (D,), so that the penalty is least.

        It changes all scores of a row of features by the same number, and no probability.
        """
        total_D = self.penalty_CD.sum(axis=0)
        weighted_D = (self.penalty_CD * (self.best_CD - self.start_CD)).sum(axis=0)
        return np.asarray(np.divide(weighted_D, total_D, out=np.zeros_like(total_D), where=total_D > 0))

    @property
    def is_done(self) -> bool:
        """Returns whether the gradient is small enough, the last steps gained too little, or the passes are used up."""
        gained = self.losses[-1 - GAIN_PASSES] - self.losses[-1] if len(self.losses) > GAIN_PASSES else np.inf
        return self.gradient_norm < ENOUGH or gained < LEAST_GAIN or self.num_passes >= MAX_PASSES

    def _softmax(self, point_CD: Floats) -> float:
        """Writes the probabilities of a point into `scores_NC` and returns the mean NLL."""
        torch.mm(self.features_ND, torch.from_numpy(point_CD.astype(np.float32)).T, out=self.scores_NC)
        self.scores_NC -= self.scores_NC.logsumexp(dim=1, keepdim=True)
        nll = -self.scores_NC.gather(1, self.labels_N[:, None]).double().mean()
        self.scores_NC.exp_()
        return float(nll)


def fit_large_matrix(
    features_ND: Floats, labels_N: Labels, *, start_CD: Floats, penalty_CD: Floats
) -> tuple[Floats, bool]:
    """Returns the parameters (C, D) of scores features @ parameters.T, and whether the gradient is small there.

    They have the least value among the points that were visited of the mean NLL plus sum(penalty * (parameters - start)^2). The
    first point is the start.
    """
    problem = _Problem(
        features_ND=torch.from_numpy(features_ND.astype(np.float32)),
        labels_N=torch.from_numpy(labels_N),
        start_CD=start_CD,
        penalty_CD=penalty_CD,
    )
    preconditioner = problem.preconditioner()

    def function(free_P: Floats) -> tuple[float, Floats]:
        point_CD = start_CD + preconditioner.parameters(free_P.reshape(start_CD.shape))
        loss, gradient_CD = problem.loss_and_gradient(point_CD)
        if problem.is_done:
            raise _EndOfFitError
        return loss, preconditioner.adjoint(gradient_CD).ravel()

    try:
        # The limits of SciPy are out of reach: `is_done` ends the fit.
        options = {"maxcor": 10, "maxiter": 10 * MAX_PASSES, "maxfun": 10 * MAX_PASSES, "ftol": 0.0, "gtol": 0.0}
        minimize(function, np.zeros(start_CD.size), jac=True, method="L-BFGS-B", options=options)
    except _EndOfFitError:
        pass
    converged = problem.gradient_norm < CONVERGED
    if not converged:
        log.warning(
            "a fit of %d parameters to %d rows ended after %d passes with a gradient of norm %.1e",
            start_CD.size,
            len(labels_N),
            problem.num_passes,
            problem.gradient_norm,
        )
    return problem.best_CD - problem.free_shift(), converged
