"""Focal loss with one gamma per confidence bin, adapted to the calibration gaps on val (AdaFocal).

Reference: Ghosh, Schaaf and Gormley 2022, AdaFocal: Calibration-aware Adaptive Focal Loss (arXiv:2211.11838)

Rebuilt from the released code, without access to the text of the paper. At the start of every epoch but the first, the val
rows are sorted by confidence and divided into bins of equal numbers. With G the mean confidence of a bin minus its accuracy,
its gamma is multiplied by exp(rate G) where it is above 0 and by exp(-rate G) elsewhere, switches to the other sign of
`switch_point` where its size is then below `switch_point`, and is kept in [gamma_min, gamma_max]. A sample takes the gamma of
the bin that its label's probability p lies in, and its loss is -(1 - p)^gamma log p, or -(1 + p)^|gamma| log p where gamma is
not above 0.

Val is thereby used for fitting. Where val confidences saturate, edges coincide and the bins between them are never used.
With rate 0 gammas are constant, val is not read and the loss is `focal`, and with initial 0 `cross_entropy`.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, renamed
from pruneyard.workloads.interfaces import LossInputs, SplitLogits, StatelessObjective, Tensors
from pruneyard.workloads.losses.class_weights import ClassWeight, check_class_weight, row_weights
from pruneyard.workloads.losses.logits import (
    check_not_negative,
    confidences,
    one_minus_p,
    select_labels,
    to_float32_or_wider,
    weighted_nll,
)
from pruneyard.workloads.plugins import Settings

__all__ = ["AdaptiveFocal"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveFocal(StatelessObjective):
    """AdaFocal, with the defaults of the released code."""

    fits_val: ClassVar[bool] = True
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"initial": 0.0, "rate": 0.0},)
    initial: float = 1.0  # gamma of every bin in the first epoch
    rate: float = 1.0
    gamma_max: float = field(default=20.0, metadata=renamed("largest"))
    gamma_min: float = field(default=-2.0, metadata=renamed("smallest"))
    switch_point: float = field(default=0.2, metadata=renamed("switch"))  # smallest |gamma|
    num_bins: int = 15
    class_weight: ClassWeight = field(default="none", metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        check_class_weight(self.class_weight)
        check_not_negative("rate", self.rate)
        if not self.gamma_min <= self.initial <= self.gamma_max:
            allowed = f"gamma_min {self.gamma_min} to gamma_max {self.gamma_max}"
            raise ValueError(f"initial is {self.initial}; it must lie in {allowed}")
        check_not_negative("switch_point", self.switch_point)
        if self.rate and (not self.initial or abs(self.initial) < self.switch_point):
            allowed = f"switch_point {self.switch_point} or more in size, and above 0, to be moved"
            raise ValueError(f"initial is {self.initial}; it must be {allowed}")
        if self.num_bins < 1:
            raise ValueError(f"num_bins is {self.num_bins}; it must be 1 or more")

    def start(self) -> Tensors:
        """Returns gammas (bins,) and the edges between bins (bins - 1,), which matter once gammas differ."""
        edges = torch.linspace(0, 1, self.num_bins + 1)[1:-1]
        return {"gammas": torch.full((self.num_bins,), self.initial), "edges": edges}

    def on_epoch_start(self, memory: Tensors, *, epoch: int, num_epochs: int, split_logits: SplitLogits) -> Tensors:
        """Returns gammas adapted to the gaps on val, and new edges. Raises `ValueError` if there are no val rows."""
        if epoch == 0 or not self.rate:
            return memory
        logits, labels = split_logits.logits("val")
        edges, gaps = equal_mass_gaps(*confidences(logits.double(), labels), self.num_bins)
        moved = self.moved(memory["gammas"].double(), gaps)
        return {"gammas": moved.float(), "edges": edges.float()}

    def moved(self, gammas: Tensor, gaps: Tensor) -> Tensor:
        """Returns the gammas of the next epoch, (bins,)."""
        raised = gammas * torch.exp(self.rate * torch.where(gammas > 0, gaps, -gaps))
        turned = torch.where(raised.abs() < self.switch_point, -self.switch_point * raised.sign(), raised)
        return turned.clamp(self.gamma_min, self.gamma_max)

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the mean over the batch, in nats, and the memory."""
        log_p = functional.log_softmax(to_float32_or_wider(inputs.network(inputs.images)), dim=1)
        of_label = select_labels(log_p, inputs.labels)
        p = of_label.exp()
        places = torch.bucketize(p.detach(), inputs.memory["edges"].to(p.dtype), right=True)
        gammas = inputs.memory["gammas"].to(p.dtype)[places]
        bases = torch.where(gammas > 0, one_minus_p(of_label), 1 + p)
        weights = row_weights(self.class_weight, inputs.labels, inputs.class_counts)
        return weighted_nll(log_p, inputs.labels, bases ** gammas.abs(), weights), inputs.memory


def equal_mass_gaps(confidence: Tensor, right: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """Returns edges (num_bins - 1,), and mean confidence minus accuracy of every bin (num_bins,), 0 for an empty one.

    The row of rank r among n rows, by confidence, is in bin r num_bins // n; an edge is the least confidence above it.
    """
    ordered, order = confidence.sort(stable=True)
    ranks = torch.arange(len(ordered), device=ordered.device)
    places = ranks * num_bins // len(ordered)
    empty = ordered.new_zeros(num_bins)
    counts = empty.index_add(0, places, torch.ones_like(ordered))
    sums = empty.index_add(0, places, ordered - right[order])
    firsts = torch.searchsorted(places, torch.arange(1, num_bins, device=places.device))
    edges = torch.cat([ordered, ordered.new_ones(1)])[firsts]
    return edges, sums / counts.clamp(min=1)
