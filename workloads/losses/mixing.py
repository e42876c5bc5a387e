"""Base class of objectives on images that are mixed in pairs.

Row i is mixed with the row a random number of places later in the batch, cyclically, and all rows by one random weight. Batches
are shuffled, so partners are random without a permutation that would have to be copied to the device. With several ranks,
partners belong to the same rank.

Dimensions: B batch, C channels, H height, W width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors
from pruneyard.workloads.losses.class_weights import (
    ClassWeight,
    check_class_weight,
    row_weights,
    weighted_cross_entropy,
)
from pruneyard.workloads.losses.logits import check_not_negative, to_float32_or_wider


@dataclass(frozen=True, kw_only=True)
class MixingObjective(StatelessObjective, ABC):
    """lam CE(own label) + (1 - lam) CE(partner's label), with lam from Beta(alpha, alpha); alpha 0: no mixing."""

    is_batch_level: ClassVar[bool] = True
    alpha: float
    class_weight: ClassWeight = field(default="none", metadata=NEUTRAL_BY_DEFAULT)  # of either label, for its part of the loss

    def __post_init__(self) -> None:
        check_class_weight(self.class_weight)
        check_not_negative("alpha", self.alpha)

    @abstractmethod
    def mix(
        self, images: Tensor, partners: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Returns images (B, C, H, W) mixed with weight about `share`, and the exact weight. Must not write into its inputs."""

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the mean over the batch, in nats, and the memory."""
        generator, labels = inputs.make_generator(), inputs.labels
        weight = self.sample_mixing_weight(generator)
        offset = sample_offset(len(labels), generator)
        images, share = self.mix(inputs.images, inputs.images.roll(offset, 0), weight, generator)
        logits = to_float32_or_wider(inputs.network(images))
        weights = row_weights(self.class_weight, labels, inputs.class_counts)
        own = weighted_cross_entropy(logits, labels, weights)
        partners = weighted_cross_entropy(logits, labels.roll(offset), None if weights is None else weights.roll(offset))
        return share * own + (1 - share) * partners, inputs.memory

    def sample_mixing_weight(self, generator: torch.Generator) -> float:
        """Returns lam in [0, 1], from the seed of the generator; its state does not change."""
        if not self.alpha:
            return 1.0
        return float(np.random.default_rng(generator.initial_seed()).beta(self.alpha, self.alpha))


def sample_offset(num_rows: int, generator: torch.Generator) -> int:
    """Returns the offset of the partner, from 1 to num_rows - 1; 0 for a single row, which is its own partner."""
    uniform = float(torch.rand((), generator=generator, dtype=torch.float64))
    return 1 + int(uniform * (num_rows - 1)) if num_rows > 1 else 0
