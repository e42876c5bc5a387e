"""Objectives of images that are mixed in pairs: which ones, by how much, and the loss of both labels.

Row i is mixed with the row a drawn number of places further on in the batch, cyclically, and all by one drawn share: batches
are shuffled, so partners are random without a permutation that would have to be sent to the device. Over several ranks
partners are of one rank.

Dimensions: B batch, C channels, H height, W width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors
from pruneyard.workloads.losses.logits import check_not_negative, to_float32_or_wider


@dataclass(frozen=True, kw_only=True)
class MixingObjective(StatelessObjective, ABC):
    """lam CE(own label) + (1 - lam) CE(partner's), lam the own share, drawn from Beta(alpha, alpha); alpha 0 mixes nothing."""

    is_batch_level: ClassVar[bool] = True
    alpha: float

    def __post_init__(self) -> None:
        check_not_negative("alpha", self.alpha)

    @abstractmethod
    def mix(
        self, images: Tensor, partners: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Images (B, C, H, W) that are about that share their own, and the share exactly. Writes into nothing."""

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Mean over the batch, in nats."""
        generator, labels = inputs.make_generator(), inputs.labels
        drawn = self.sample_mixing_weight(generator)
        places = sample_offset(len(labels), generator)
        images, share = self.mix(inputs.images, inputs.images.roll(places, 0), drawn, generator)
        logits = to_float32_or_wider(inputs.network(images))
        own = functional.cross_entropy(logits, labels)
        partners = functional.cross_entropy(logits, labels.roll(places))
        return share * own + (1 - share) * partners, inputs.memory

    def sample_mixing_weight(self, generator: torch.Generator) -> float:
        """lam, in [0, 1]; the generator stays where it stands."""
        if not self.alpha:
            return 1.0
        return float(np.random.default_rng(generator.initial_seed()).beta(self.alpha, self.alpha))


def sample_offset(num_rows: int, generator: torch.Generator) -> int:
    """How many places on the partner stands: from 1 to num_rows - 1; 0 for one row, which is its own partner."""
    drawn = float(torch.rand((), generator=generator, dtype=torch.float64))
    return 1 + int(drawn * (num_rows - 1)) if num_rows > 1 else 0
