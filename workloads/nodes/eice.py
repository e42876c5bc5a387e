"""Expected individual calibration error: how far each node's confidence is from the middle of its own interval.

Reference: CALIRARE, Wu et al., Towards individual calibration for rare categories (KDD 2023, arXiv 2307.09858)
"""

import torch
from torch import Tensor

from pruneyard.workloads.nodes.jackknife import Intervals


def individual_errors(probabilities: Tensor, intervals: Intervals) -> Tensor:
    """(N,), of P(class 1) `probabilities: (N,)`: |confidence - what the interval's middle gives the predicted class|.

    The interval is cut to [0, 1] first. Where class 0 is predicted, both sides are about class 0: the middle is 1 - (L + U) / 2.
    """
    middle, is_one = intervals.clipped.middle, probabilities > 0.5
    confidence = torch.where(is_one, probabilities, 1 - probabilities)
    return (confidence - torch.where(is_one, middle, 1 - middle)).abs()


def individual_errors_as_released(probabilities: Tensor, intervals: Intervals) -> Tensor:
    """(N,), as the released code computes it: the larger probability against the middle of class 1's, nothing cut.

    Where class 0 is predicted it compares two quantities: 0.95 for class 0 beside a middle of 0.05 for class 1 is an error of
    0.9, though they agree.
    """
    return (probabilities.maximum(1 - probabilities) - intervals.middle).abs()
