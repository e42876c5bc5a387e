"""Nonconformity scores that sum probabilities from the most probable class down (APS, RAPS)."""

import numpy as np

from pruneyard.workloads.calibrate.prediction_sets import Floats, Labels

ROWS_AT_ONCE = 4096  # bounds the memory of sorted copies


def ranks_of(probabilities_NK: Floats) -> Labels:
    """Returns ranks (N, K): 1 for the most probable class of a row; among equal probabilities the first class ranks first."""
    order = _descending_order(probabilities_NK)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(1, order.shape[1] + 1), order.shape), axis=1)
    return ranks


def cumulative_scores(probabilities_NK: Floats, draws_N: Floats, penalties_K: Floats) -> Floats:
    """Returns scores (N, K): cumulative probability down to a class, minus draw times its own, plus the penalty of its rank.

    penalties_K: by rank, the most probable class first. Among equal probabilities the first class ranks first.
    """
    scores = np.empty(probabilities_NK.shape)
    for start in range(0, len(scores), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        order = _descending_order(probabilities_NK[rows])
        descending = np.take_along_axis(probabilities_NK[rows], order, axis=1)
        summed = np.cumsum(descending, axis=1) - draws_N[rows, None] * descending + penalties_K
        # Back from descending order to the order of classes.
        np.put_along_axis(scores[rows], order, summed, axis=1)
    return scores


def _descending_order(probabilities_NK: Floats) -> Labels:
    # A stable sort, so that ties have the same order at calibration and at prediction.
    return np.argsort(-probabilities_NK, axis=1, kind="stable")
