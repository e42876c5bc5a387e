"""Minimises the NLL of scores that are linear in their parameters, with a quadratic penalty on the distance to the start.

The problem is convex. Trust-region Newton with conjugate gradients needs no explicit Hessian. A matrix of more than
`MANY_WEIGHTS` is fitted by `large_fit` instead. The result is never worse than the start.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from pruneyard.workloads.calibrate.calibrator import Floats, Labels
from pruneyard.workloads.calibrate.large_fit import fit_large_matrix

GRADIENT = 1e-8  # gradient norm, in nats, at which a fit has converged
GRADIENT_EACH = 1e-11  # times the number of parameters above 1,000: 1e-5 for a matrix of 1,000 classes
MAX_STEPS = 500
MANY_WEIGHTS = 100_000  # of a matrix: beyond, float64 takes minutes, and rows are few for so many weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LinearScores:
    """A linear function from flat parameters `(P,)` to scores `(N, C)`, and its adjoint from `(N, C)` to `(P,)`."""

    scores: Callable[[Floats], Floats]
    adjoint: Callable[[Floats], Floats]


def fit_linear(
    model: LinearScores, labels_N: Labels, *, start_P: Floats, penalty_P: Floats
) -> tuple[Floats, bool]:
    """Returns the parameters `(P,)` that minimise mean NLL + sum(penalty * (parameters - start)^2), and whether it converged.

    Without a penalty the NLL of separable rows has no minimum; the fit then ends when the gradient is small enough.
    """
    num_rows, rows_N = len(labels_N), np.arange(len(labels_N))
    tolerance = max(GRADIENT, GRADIENT_EACH * len(start_P))
    softmaxes: dict[bytes, Floats] = {}  # cache of the latest point only: conjugate gradients need many products at one point

    def value(point_P: Floats) -> float:
        log_NC = log_softmax(model.scores(point_P), axis=1)
        return float(-log_NC[rows_N, labels_N].mean() + (penalty_P * (point_P - start_P) ** 2).sum())

    def softmax_at(point_P: Floats) -> Floats:
        key = point_P.tobytes()
        if key not in softmaxes:
            softmaxes.clear()
            softmaxes[key] = softmax(model.scores(point_P), axis=1)
        return softmaxes[key]

    def gradient(point_P: Floats) -> Floats:
        # Copied, because the next line would change the cache.
        errors_NC = softmax_at(point_P).copy()
        errors_NC[rows_N, labels_N] -= 1
        return model.adjoint(errors_NC / num_rows) + 2 * penalty_P * (point_P - start_P)

    def curvature_along(point_P: Floats, direction_P: Floats) -> Floats:
        p_NC, change_NC = softmax_at(point_P), model.scores(direction_P)
        mean_N1 = (p_NC * change_NC).sum(axis=1, keepdims=True)
        return model.adjoint(p_NC * (change_NC - mean_N1) / num_rows) + 2 * penalty_P * direction_P

    found = minimize(
        value,
        start_P,
        jac=gradient,
        hessp=curvature_along,
        method="trust-ncg",
        options={"gtol": tolerance, "maxiter": MAX_STEPS, "max_trust_radius": 1e6},
    )
    # Guards the promise that the result is never worse than the start.
    best_P = found.x if value(found.x) <= value(start_P) else start_P
    converged = bool(np.linalg.norm(gradient(best_P)) < 1e3 * tolerance)
    if not converged:
        log.warning(
            "a fit of %d parameters to %d rows did not converge: %s", len(start_P), num_rows, found.message
        )
    return best_P, converged


def typical_size(features_NC: Floats) -> float:
    """Returns the root mean square of features, which scales parameters to about 1; returns 1 if all features are 0."""
    size = float(np.sqrt(np.mean(features_NC**2)))
    return size if size > 0 else 1.0


def fit_matrix(
    features_NC: Floats, labels_N: Labels, *, off_diagonal: float, bias: float, ridge: float
) -> tuple[Floats, Floats, bool]:
    """Fits scores features @ weights.T + biases from the identity.

    Returns weights `(C, C)`, biases `(C,)`, and whether the fit converged.

    The penalty is off_diagonal * sum of w_ij^2 over i != j / (C (C - 1)) + bias * sum of b_i^2 / C (ODIR), and
    ridge * sum of (w_ii - 1)^2, which determines the diagonal where the rows do not.
    """
    size, num_classes = typical_size(features_NC), features_NC.shape[1]
    scaled_NC, diagonal = features_NC / size, np.eye(num_classes, dtype=bool)

    def scores(point_P: Floats) -> Floats:
        weights_CC, bias_C = point_P[:-num_classes].reshape(num_classes, num_classes), point_P[-num_classes:]
        return np.asarray(scaled_NC @ weights_CC.T + bias_C)

    def adjoint(errors_NC: Floats) -> Floats:
        return np.concatenate([(errors_NC.T @ scaled_NC).ravel(), errors_NC.sum(axis=0)])

    def flat(parameters_CD: Floats) -> Floats:
        return np.concatenate([parameters_CD[:, :-1].ravel(), parameters_CD[:, -1]])

    # The weights of scaled features are `size` times larger, so the penalty is divided by its square to mean the same.
    weight_penalty = np.where(diagonal, ridge, off_diagonal / (num_classes * (num_classes - 1))) / size**2
    start_CD = np.concatenate([size * np.eye(num_classes), np.zeros((num_classes, 1))], axis=1)
    penalty_CD = np.concatenate([weight_penalty, np.full((num_classes, 1), bias / num_classes)], axis=1)
    if num_classes**2 > MANY_WEIGHTS:
        with_one_ND = np.concatenate([scaled_NC, np.ones((len(scaled_NC), 1))], axis=1)
        found_CD, converged = fit_large_matrix(with_one_ND, labels_N, start_CD=start_CD, penalty_CD=penalty_CD)
        return found_CD[:, :-1] / size, found_CD[:, -1], converged
    found_P, converged = fit_linear(
        LinearScores(scores=scores, adjoint=adjoint), labels_N, start_P=flat(start_CD), penalty_P=flat(penalty_CD)
    )
    weights_CC = found_P[:-num_classes].reshape(num_classes, num_classes) / size
    return weights_CC, found_P[-num_classes:], converged
