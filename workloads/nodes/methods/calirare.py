"""Fine-tunes on validation nodes with a term that draws each node's confidence to its interval's middle.

The loss is (1 - weight) * objective + weight * EICE. `weight: 0` is fine-tuning on validation nodes alone.

Reference: CALIRARE, Wu et al., Towards individual calibration for rare categories (KDD 2023, arXiv 2307.09858)
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.nodes.eice import individual_errors
from pruneyard.workloads.nodes.node_method import Tuned, TuningQuestion

__all__ = ["Calirare"]


@dataclass(frozen=True, kw_only=True)
class Calirare(Tuned):
    """target: whether intervals are targets, through which no gradient flows, or are followed by it as well.

    The published equation could not be checked: the released code's term has no gradient at all (see `calirare_released`).
    """

    target: Literal["stopped", "followed"] = "stopped"

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}; it must lie in [0, 1]")
        super().__post_init__()

    def tuning_loss(self, question: TuningQuestion) -> tuple[Tensor, Tensor | None]:
        """See `pruneyard.workloads.nodes.node_method.NodeMethod`. Nothing is asked of intervals whose error has no weight."""
        if self.weight == 0:
            return question.loss, None
        with torch.set_grad_enabled(self.target == "followed"):
            intervals = question.intervals()
        error = individual_errors(question.logits.softmax(dim=1)[:, 1], intervals).mean()
        return self.weighed(question.loss, error), error
