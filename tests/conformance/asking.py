"""Asks objectives and methods outside a training."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import LossInputs, Network, Objective, PixelRange, SplitLogits, Tensors
from pruneyard.workloads.ranks import ALONE, Share
from pruneyard.workloads.training.backward import Backward, Prober
from pruneyard.workloads.training.loss_scale import Unscaled
from pruneyard.workloads.training.mask_updater import FunctionalNetwork

NO_BENCH = cast(FunctionalNetwork, None)
"""For the moments of methods that do not ask the network anything."""

NO_ANSWERS = cast(SplitLogits, None)
"""For the looks of objectives that do not ask about any rows."""


@dataclass(frozen=True)
class Answered:
    """Says the same of both splits."""

    outputs: Tensor  # (N, K)
    labels: Tensor

    def logits(self, split: Literal["train", "val"]) -> tuple[Tensor, Tensor]:
        """See `pruneyard.workloads.interfaces.SplitLogits`."""
        return self.outputs, self.labels


def question(
    network: Network, images: Tensor, labels: Tensor, *, memory: Tensors | None = None, seed: int = 0
) -> LossInputs:
    """Of images whose pixels are not normalised: black is 0 and white is 1."""
    black = torch.zeros(1, images.shape[1], 1, 1, dtype=images.dtype, device=images.device)
    return LossInputs(
        network=network,
        images=images,
        labels=labels,
        share=Share.whole(len(images)),
        rows=lambda: torch.arange(len(images)),
        memory=memory or {},
        pixels=PixelRange(black=black, white=black + 1),
        at_rest=nullcontext,
        aside=nullcontext,
        draws=lambda: torch.Generator().manual_seed(seed),
    )


def backward_alone(prober: Prober, num_rows: int) -> Backward:
    """Of one process that has the whole batch, in float32."""
    return Backward(prober=prober, ranks=ALONE, share=Share.whole(num_rows), scale=Unscaled())


def loss_of_logits(objective: Objective, logits: Tensor, labels: list[int]) -> float:
    """The loss of a network that answers with these logits."""
    images = torch.zeros(len(labels), 1, 1, 1)
    return float(objective.loss(question(lambda _: logits, images, torch.tensor(labels)))[0])
