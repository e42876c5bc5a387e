"""Scores that add probabilities up from the most probable class down."""

import numpy as np

from pruneyard.workloads.calibrate.prediction_sets import Floats, Labels

ROWS_AT_ONCE = 4096  # bounds the memory of sorted copies


def ranks_of(probabilities_NK: Floats) -> Labels:
    """(N, K): 1 for the most probable class of a row; of equal probabilities the first class comes first."""
    order = _falling(probabilities_NK)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(1, order.shape[1] + 1), order.shape), axis=1)
    return ranks


def cumulative_scores(probabilities_NK: Floats, draws_N: Floats, prices_K: Floats) -> Floats:
    """(N, K) sums of the probabilities down to and with a class, less draw times its own, plus the price of its rank.

    prices_K: of the most probable class first. Of equal probabilities the first class comes first.
    """
    scores = np.empty(probabilities_NK.shape)
    for start in range(0, len(scores), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        order = _falling(probabilities_NK[rows])
        falling = np.take_along_axis(probabilities_NK[rows], order, axis=1)
        summed = np.cumsum(falling, axis=1) - draws_N[rows, None] * falling + prices_K
        np.put_along_axis(scores[rows], order, summed, axis=1)
    return scores


def _falling(probabilities_NK: Floats) -> Labels:
    return np.argsort(-probabilities_NK, axis=1, kind="stable")
