"""Expected individual calibration error (EICE): distance of each node's confidence to the centre of its own interval.

Reference: CALIRARE, Wu et al., Towards individual calibration for rare categories (KDD 2023, arXiv 2307.09858)
"""

import torch
from torch import Tensor

from pruneyard.workloads.nodes.jackknife import Intervals


def individual_errors(probabilities: Tensor, intervals: Intervals) -> Tensor:
    """Returns |confidence - interval centre| for the predicted class, (N,), from P(class 1) `probabilities: (N,)`.

    The interval is clipped to [0, 1] first. For nodes predicted as class 0, the centre is that of class 0: 1 - (L + U) / 2.
    """
    # A probability of exactly 0.5 predicts class 0, as argmax does.
    middle, is_one = intervals.clipped.middle, probabilities > 0.5
    confidence = torch.where(is_one, probabilities, 1 - probabilities)
    return (confidence - torch.where(is_one, middle, 1 - middle)).abs()


def individual_errors_as_released(probabilities: Tensor, intervals: Intervals) -> Tensor:
    """Returns the errors (N,) as the released code computes them: larger probability against the unclipped centre of class 1.

    For nodes predicted as class 0 it compares different quantities: a probability of 0.95 for class 0 and a centre of 0.05
    for class 1 count as an error of 0.9, although they agree.
    """
    return (probabilities.maximum(1 - probabilities) - intervals.middle).abs()
