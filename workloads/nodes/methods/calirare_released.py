"""CALIRARE's fine-tuning as in its released code, where the calibration term is a constant without gradient.

The released code computes the term without autograd, from intervals that are not clipped to [0, 1] and always belong to class 1.
The method is therefore plain fine-tuning on validation nodes; it is kept for comparison.

Reference: CALIRARE, Wu et al., Towards individual calibration for rare categories (KDD 2023, arXiv 2307.09858), released code
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.nodes.eice import individual_errors_as_released
from pruneyard.workloads.nodes.node_method import Tuned, TuningInputs

__all__ = ["CalirareReleased"]


@dataclass(frozen=True, kw_only=True)
class CalirareReleased(Tuned):
    def __post_init__(self) -> None:
        if not 0 <= self.weight < 1:
            raise ValueError(f"weight is {self.weight}; it must lie in [0, 1)")
        super().__post_init__()

    def tuning_loss(self, inputs: TuningInputs) -> tuple[Tensor, Tensor | None]:
        """See `pruneyard.workloads.nodes.node_method.NodeMethod`."""
        with torch.no_grad():
            probabilities = inputs.logits.softmax(dim=1)[:, 1]
            error = individual_errors_as_released(probabilities, inputs.intervals()).mean()
        return self.weighed(inputs.loss, error), error
