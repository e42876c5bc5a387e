"""Logistic regression on a few features with targets in [0, 1], for Platt scaling and beta calibration per class."""

import numpy as np
from scipy.special import expit

from pruneyard.workloads.calibrate.calibrator import Floats

GRADIENT = 1e-12  # largest entry of the gradient, in nats, at which Newton's method stops
MAX_STEPS = 200


def fit_logistic(features_NF: Floats, targets_N: Floats, *, start_F: Floats, ridge: float = 0.0) -> Floats:
    """Returns coefficients `(F,)` that minimise mean cross-entropy + ridge * |coefficients - start|^2, by Newton's method.

    Steps are halved until the objective decreases, which a Newton direction of a convex problem guarantees. The fit ends when
    the objective cannot decrease any more in float64. Directions that the features do not determine keep their start.
    """
    coefficients_F = start_F.astype(np.float64)
    value = _objective(features_NF, targets_N, coefficients_F, start_F, ridge)
    for _ in range(MAX_STEPS):
        p_N = expit(features_NF @ coefficients_F)
        gradient_F = features_NF.T @ (p_N - targets_N) / len(targets_N) + 2 * ridge * (
            coefficients_F - start_F
        )
        if np.abs(gradient_F).max() < GRADIENT:
            break
        weighted_NF = features_NF * (p_N * (1 - p_N) / len(targets_N))[:, None]
        hessian_FF = features_NF.T @ weighted_NF + 2 * ridge * np.eye(len(start_F))
        # The smallest step that solves the system: it is 0 in directions in which a singular Hessian leaves it open.
        step_F = np.linalg.lstsq(hessian_FF, gradient_F, rcond=None)[0]
        for halvings in range(60):
            tried_F = coefficients_F - step_F / 2**halvings
            tried = _objective(features_NF, targets_N, tried_F, start_F, ridge)
            if tried < value:
                break
        # No step decreases the objective in float64.
        else:
            break
        coefficients_F, value = tried_F, tried
    return coefficients_F


def _objective(features_NF: Floats, targets_N: Floats, at_F: Floats, start_F: Floats, ridge: float) -> float:
    return cross_entropy(features_NF @ at_F, targets_N) + ridge * float(((at_F - start_F) ** 2).sum())


def cross_entropy(scores_N: Floats, targets_N: Floats) -> float:
    """Returns the mean cross-entropy of sigmoid(scores) with targets, in nats; accurate for scores of any size."""
    return float((np.logaddexp(0, scores_N) - targets_N * scores_N).mean())
