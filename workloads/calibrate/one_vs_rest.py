"""Class against the rest: the odds of each class, and a distribution again from what was fitted class by class."""

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

from pruneyard.workloads.calibrate.calibrator import Floats


def log_odds(logits_NC: Floats) -> Floats:
    """log(p_k / (1 - p_k)) of softmax probabilities, `(N, C)`, exact where p_k is 1 but for less than float64 can say."""
    log_NC = np.asarray(log_softmax(logits_NC, axis=1))
    rows_N, largest_N = np.arange(len(log_NC)), log_NC.argmax(axis=1)
    others_NC = log_NC.copy()
    others_NC[rows_N, largest_N] = -np.inf
    odds_NC = log_NC - np.log1p(
        -np.exp(np.minimum(others_NC, np.log(0.5)))
    )  # others are 1/2 at most, but for rounding
    odds_NC[rows_N, largest_N] = log_NC[rows_N, largest_N] - logsumexp(others_NC, axis=1)
    return np.asarray(odds_NC)


def probabilities_of(logits_NC: Floats) -> Floats:
    """Softmax of logits, `(N, C)`: equal logits of a row have equal probabilities."""
    return np.asarray(softmax(logits_NC, axis=1))


def smallest_probability(num_rows: int, num_classes: int) -> float:
    """The share of the uniform distribution that is mixed into maps that can give 0: one row's, and one for every class."""
    return 1 / (num_rows + num_classes)


def distribution(values_MC: Floats, uniform_share: float) -> Floats:
    """Log-probabilities of rows of values in [0, 1], mixed with the uniform distribution and scaled to sum to 1."""
    mixed_MC = (1 - uniform_share) * values_MC + uniform_share / values_MC.shape[1]
    return np.asarray(np.log(mixed_MC) - np.log(mixed_MC.sum(axis=1, keepdims=True)))
