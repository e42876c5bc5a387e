"""Fine-tunes on validation nodes with a term that pulls each node's confidence to the centre of its interval.

The loss is (1 - weight) * objective + weight * EICE. `weight: 0` is plain fine-tuning on validation nodes.

Reference: CALIRARE, Wu et al., Towards individual calibration for rare categories (KDD 2023, arXiv 2307.09858)
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.nodes.eice import individual_errors
from pruneyard.workloads.nodes.node_method import Tuned, TuningInputs

__all__ = ["Calirare"]


@dataclass(frozen=True, kw_only=True)
class Calirare(Tuned):
    """Fine-tuning with EICE. target: `stopped` treats intervals as constants, `followed` propagates gradients through them.

    The published equation could not be checked: the released code's term has no gradient at all (see `calirare_released`).
    """

    target: Literal["stopped", "followed"] = "stopped"

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}; it must lie in [0, 1]")
        super().__post_init__()

    def tuning_loss(self, inputs: TuningInputs) -> tuple[Tensor, Tensor | None]:
        """See `pruneyard.workloads.nodes.node_method.NodeMethod`. Intervals are not computed if `weight` is 0."""
        if self.weight == 0:
            return inputs.loss, None
        # Without gradients the intervals are constants, and their n networks need no graph.
        with torch.set_grad_enabled(self.target == "followed"):
            intervals = inputs.intervals()
        error = individual_errors(inputs.logits.softmax(dim=1)[:, 1], intervals).mean()
        return self.weighed(inputs.loss, error), error
