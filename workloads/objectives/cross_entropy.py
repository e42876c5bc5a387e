"""Cross-entropy, with optional label smoothing: the neutral objective."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from workloads.slots import Network

__all__ = ["CrossEntropy"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """With smoothing s the target is 1 - s + s / K for the label and s / K elsewhere, K classes."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")

    def loss(self, network: Network, images: Tensor, labels: Tensor) -> Tensor:
        """Mean over the batch, in nats."""
        return functional.cross_entropy(network(images), labels, label_smoothing=self.label_smoothing)
