"""One-vs-rest calibration: the log-odds of each class, and normalisation of per-class results to a distribution."""

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

from pruneyard.workloads.calibrate.calibrator import Floats


def log_odds(logits_NC: Floats) -> Floats:
    """Returns log(p_k / (1 - p_k)) of softmax probabilities, `(N, C)`; accurate even where p_k rounds to 1 in float64."""
    log_NC = np.asarray(log_softmax(logits_NC, axis=1))
    rows_N, largest_N = np.arange(len(log_NC)), log_NC.argmax(axis=1)
    others_NC = log_NC.copy()
    others_NC[rows_N, largest_N] = -np.inf
    # All but the largest probability are at most 1/2; the minimum removes rounding above it.
    odds_NC = log_NC - np.log1p(-np.exp(np.minimum(others_NC, np.log(0.5))))
    # The probability of all others is summed in logarithms, because 1 - p is 0 where p rounds to 1.
    odds_NC[rows_N, largest_N] = log_NC[rows_N, largest_N] - logsumexp(others_NC, axis=1)
    return np.asarray(odds_NC)


def probabilities_of(logits_NC: Floats) -> Floats:
    """Returns the softmax of logits, `(N, C)`; equal logits of a row have equal probabilities."""
    return np.asarray(softmax(logits_NC, axis=1))


def smallest_probability(num_rows: int, num_classes: int) -> float:
    """Returns the weight 1 / (N + C) of the uniform distribution that is mixed into maps that can return probability 0."""
    return 1 / (num_rows + num_classes)


def distribution(values_MC: Floats, uniform_share: float) -> Floats:
    """Returns log-probabilities from rows of values in [0, 1], mixed with the uniform distribution and scaled to sum to 1."""
    mixed_MC = (1 - uniform_share) * values_MC + uniform_share / values_MC.shape[1]
    return np.asarray(np.log(mixed_MC) - np.log(mixed_MC.sum(axis=1, keepdims=True)))
