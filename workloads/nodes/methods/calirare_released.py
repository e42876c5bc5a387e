"""CALIRARE's fine-tuning as released, where the calibration term is a constant and has no gradient.

The term is computed outside of the graph of gradients, of intervals that are not cut to [0, 1] and are always about class 1. What
is left is fine-tuning on validation nodes; kept for comparison.

Reference: CALIRARE, Wu et al., Towards individual calibration for rare categories (KDD 2023, arXiv 2307.09858), released code
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.nodes.eice import individual_errors_as_released
from pruneyard.workloads.nodes.node_method import Tuned, TuningQuestion

__all__ = ["CalirareReleased"]


@dataclass(frozen=True, kw_only=True)
class CalirareReleased(Tuned):
    def __post_init__(self) -> None:
        if not 0 <= self.weight < 1:
            raise ValueError(f"weight is {self.weight}; it must lie in [0, 1)")
        super().__post_init__()

    def tuning_loss(self, question: TuningQuestion) -> tuple[Tensor, Tensor | None]:
        """See `pruneyard.workloads.nodes.node_method.NodeMethod`."""
        with torch.no_grad():
            probabilities = question.logits.softmax(dim=1)[:, 1]
            error = individual_errors_as_released(probabilities, question.intervals()).mean()
        return self.weighed(question.loss, error), error
