"""Cross-entropy with label smoothing: part of the label's weight is shared by the classes.

Reference: Müller et al. 2019, When Does Label Smoothing Help? (arXiv:1906.02629); Szegedy et al. 2016 (arXiv:1512.00567)

Two conventions are in use. `all_classes`: 1 - s + s / K for the label and s / K for each other of K classes, as PyTorch has
it and as `cross_entropy` does with its own `label_smoothing`. `other_classes`: 1 - s for the label and s / (K - 1) for each
other; it equals the first with s K / (K - 1). With s = 0 both are `cross_entropy`. A network trained so may want a
temperature below 1 afterwards.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.losses.class_weights import weighted_cross_entropy
from pruneyard.workloads.losses.logits import ClassWeightedObjective, check_smoothing
from pruneyard.workloads.plugins import Settings

__all__ = ["LabelSmoothing"]


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(ClassWeightedObjective):
    neutral_settings: ClassVar[tuple[Settings, ...]] = (
        {"smoothing": 0.0, "convention": "all_classes"},
        {"smoothing": 0.0, "convention": "other_classes"},
    )
    smoothing: float = 0.05  # s
    convention: Literal["all_classes", "other_classes"] = "all_classes"  # the classes that share s

    def __post_init__(self) -> None:
        super().__post_init__()
        check_smoothing("smoothing", self.smoothing)
        if self.convention not in ("all_classes", "other_classes"):
            raise ValueError(f"convention is {self.convention!r}; it must be all_classes or other_classes")

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Returns the weighted mean over the batch, in nats. Raises `ValueError` if there is only one class."""
        if self.convention == "all_classes":
            return weighted_cross_entropy(logits, labels, weights, label_smoothing=self.smoothing)
        num_classes = logits.shape[1]
        if num_classes < 2:
            raise ValueError(f"the network has {num_classes} output; other_classes needs 2 or more")
        log_p = functional.log_softmax(logits, dim=1)
        if weights is not None:  # of the row's label, for all of its targets
            log_p = weights[:, None] * log_p
        of_label = functional.nll_loss(log_p, labels)
        of_others = -log_p.sum(dim=1).mean() - of_label
        return (1 - self.smoothing) * of_label + self.smoothing / (num_classes - 1) * of_others
