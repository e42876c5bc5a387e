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
from pruneyard.workloads.losses.logits import at_least_single, check_not_negative


@dataclass(frozen=True, kw_only=True)
class Mixing(StatelessObjective, ABC):
    """lam CE(own label) + (1 - lam) CE(partner's), lam the own share, drawn from Beta(alpha, alpha); alpha 0 mixes nothing."""

    of_whole_batch: ClassVar[bool] = True
    alpha: float

    def __post_init__(self) -> None:
        check_not_negative("alpha", self.alpha)

    @abstractmethod
    def mixed(
        self, images: Tensor, partners: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Images (B, C, H, W) that are about that share their own, and the share exactly. Writes into nothing."""

    def loss(self, question: LossInputs) -> tuple[Tensor, Tensors]:
        """Mean over the batch, in nats."""
        generator, labels = question.draws(), question.labels
        drawn = self.drawn_share(generator)
        places = drawn_places(len(labels), generator)
        images, share = self.mixed(question.images, question.images.roll(places, 0), drawn, generator)
        logits = at_least_single(question.network(images))
        own = functional.cross_entropy(logits, labels)
        partners = functional.cross_entropy(logits, labels.roll(places))
        return share * own + (1 - share) * partners, question.memory

    def drawn_share(self, generator: torch.Generator) -> float:
        """lam, in [0, 1]; the generator stays where it stands."""
        if not self.alpha:
            return 1.0
        return float(np.random.default_rng(generator.initial_seed()).beta(self.alpha, self.alpha))


def drawn_places(num_rows: int, generator: torch.Generator) -> int:
    """How many places on the partner stands: from 1 to num_rows - 1; 0 for one row, which is its own partner."""
    drawn = float(torch.rand((), generator=generator, dtype=torch.float64))
    return 1 + int(drawn * (num_rows - 1)) if num_rows > 1 else 0
