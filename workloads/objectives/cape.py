"""Cross-entropy, every few epochs against empirical label frequencies at similar predictions (CaPE).

Reference: Liu et al. 2022, Deep Probability Estimation (arXiv:2111.10734)

Rebuilt from the released code, which is for two classes and starts from a cross-entropy model of the best val NLL; here
`warmup_epochs` of cross-entropy come first, and no best checkpoint is kept at the end. Of the epochs after them, every
(plain_epochs + 1)-th, the first included, begins with an evaluation of the training rows: sorted by the predicted
probability, they get as target the mean label of their group of equal numbers (`bins`), or of their neighbours, `window` on
either side, weighted by a normal density of standard deviation `bandwidth` around their own probability (`kernel`). The epoch
minimises cross-entropy against these targets; the others' targets are labels. Only train rows are used.

With more than two classes each is estimated against the rest and targets are normalised: an extension of ours
(unverified). The defaults are those of the script for bins; for the kernel it has plain_epochs 3. A budget no longer than
`warmup_epochs` is `cross_entropy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.interfaces import LossInputs, SplitLogits, StatelessObjective, Tensors
from pruneyard.workloads.losses.class_weights import REFUSED_BY_CALIBRATION
from pruneyard.workloads.losses.logits import to_float32_or_wider
from pruneyard.workloads.plugins import Settings

__all__ = ["CaPE"]

ROWS_AT_ONCE = 4096  # bounds the memory of the kernel's windows


@dataclass(frozen=True, kw_only=True)
class CaPE(StatelessObjective):
    refused: ClassVar[Mapping[str, str]] = {"class_weight": REFUSED_BY_CALIBRATION}
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"warmup_epochs": 1_000},)
    examples: ClassVar[tuple[Settings, ...]] = ({"warmup_epochs": 0, "plain_epochs": 1},)
    warmup_epochs: int = field(default=10, metadata=renamed("warm_epochs"))
    plain_epochs: int = 2  # between two epochs with targets
    estimate: Literal["bins", "kernel"] = "bins"
    num_bins: int = 5  # of bins
    bandwidth: float = 0.05  # of the kernel, in probability
    window: int = 100  # of the kernel: neighbours on either side, by rank

    def __post_init__(self) -> None:
        for name, least in (("warmup_epochs", 0), ("plain_epochs", 0), ("num_bins", 1), ("window", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if self.estimate not in ("bins", "kernel"):
            raise ValueError(f"estimate is {self.estimate!r}; it must be bins or kernel")
        if not 0 < self.bandwidth < float("inf"):
            raise ValueError(f"bandwidth is {self.bandwidth}; it must be above 0")

    def start(self) -> Tensors:
        """Returns empty targets."""
        return {"targets": torch.zeros(0, 0)}

    def on_epoch_start(self, memory: Tensors, *, epoch: int, num_epochs: int, split_logits: SplitLogits) -> Tensors:
        """Returns targets (N, K) of the training rows for an epoch that uses them, else (0, 0)."""
        since = epoch - self.warmup_epochs
        if since < 0 or since % (self.plain_epochs + 1):
            return {"targets": memory["targets"].new_zeros(0, 0)}
        logits, labels = split_logits.logits("train")
        return {"targets": self.targets(functional.softmax(logits.double(), dim=1), labels).float()}

    def targets(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Returns targets (N, K) that sum to 1 over classes, from predictions (N, K) and labels (N,)."""
        num_classes = probabilities.shape[1]
        if num_classes == 2:
            second = self.frequencies(probabilities[:, 1], labels == 1)
            return torch.stack([1 - second, second], dim=1)
        each = [self.frequencies(probabilities[:, k], labels == k) for k in range(num_classes)]
        found = torch.stack(each, dim=1)
        return found / found.sum(dim=1, keepdim=True)

    def frequencies(self, predicted: Tensor, occurred: Tensor) -> Tensor:
        """Returns how often the class occurs at similar predictions, (N,), from probabilities (N,) and booleans (N,)."""
        ordered, order = predicted.sort(stable=True)
        outcomes = occurred[order].to(ordered.dtype)
        found = self._by_bins(outcomes) if self.estimate == "bins" else self._by_kernel(ordered, outcomes)
        return torch.empty_like(found).scatter(0, order, found)

    def _by_bins(self, outcomes: Tensor) -> Tensor:
        """Returns the mean of each row's bin; the row of rank r among N is in bin r num_bins // N."""
        places = torch.arange(len(outcomes), device=outcomes.device) * self.num_bins // len(outcomes)
        empty = outcomes.new_zeros(self.num_bins)
        counts = empty.index_add(0, places, torch.ones_like(outcomes))
        return (empty.index_add(0, places, outcomes) / counts.clamp(min=1))[places]

    def _by_kernel(self, ordered: Tensor, outcomes: Tensor) -> Tensor:
        """Returns kernel-weighted means; a row's own weight is 1, so the sum of weights is never small."""
        width = 2 * self.window + 1
        near = functional.pad(ordered, (self.window, self.window), value=float("inf")).unfold(0, width, 1)
        labels = functional.pad(outcomes, (self.window, self.window)).unfold(0, width, 1)
        found = []
        for start in range(0, len(ordered), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            weights = torch.exp(-0.5 * ((near[rows] - ordered[rows, None]) / self.bandwidth) ** 2)
            found.append((weights * labels[rows]).sum(dim=1) / weights.sum(dim=1))
        return torch.cat(found)

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the mean over the batch, in nats, and the memory."""
        logits, targets = to_float32_or_wider(inputs.network(inputs.images)), inputs.memory["targets"]
        if not len(targets):
            return functional.cross_entropy(logits, inputs.labels), inputs.memory
        row_targets = targets.index_select(0, inputs.rows()).to(logits.dtype)
        return functional.cross_entropy(logits, row_targets), inputs.memory
