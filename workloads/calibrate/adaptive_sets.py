"""Scores that add probabilities up from the most probable class down."""

import numpy as np

from workloads.calibrate.prediction_sets import Floats, Labels


def ranks_of(probabilities_NK: Floats) -> Labels:
    """(N, K): 1 for the most probable class of a row; of equal probabilities the first class comes first."""
    return _ranks(np.argsort(-probabilities_NK, axis=1, kind="stable"))


def cumulative_scores(probabilities_NK: Floats, draws_N: Floats) -> tuple[Floats, Labels]:
    """(N, K) sums of the probabilities down to and with a class, less draw times its own; and the ranks from 1."""
    order = np.argsort(-probabilities_NK, axis=1, kind="stable")
    falling = np.take_along_axis(probabilities_NK, order, axis=1)
    scores = np.empty_like(falling)
    np.put_along_axis(scores, order, np.cumsum(falling, axis=1) - draws_N[:, None] * falling, axis=1)
    return scores, _ranks(order)


def _ranks(order: Labels) -> Labels:
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(1, order.shape[1] + 1), order.shape), axis=1)
    return ranks
