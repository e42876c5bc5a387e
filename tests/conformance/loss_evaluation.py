"""Evaluates objectives and methods outside a training."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import LossInputs, Network, Objective, PixelRange, SplitLogits, Tensors
from pruneyard.workloads.ranks import SINGLE_RANK, Share
from pruneyard.workloads.training.backward import Backward, NetworkTensors
from pruneyard.workloads.training.loss_scale import UnscaledLoss
from pruneyard.workloads.training.mask_updater import FunctionalNetwork

NO_NETWORK = cast(FunctionalNetwork, None)
"""For the moments of methods that do not ask the network anything."""

NO_SPLIT_LOGITS = cast(SplitLogits, None)
"""For the looks of objectives that do not ask about any rows."""


@dataclass(frozen=True)
class FixedLogits:
    """Split logits that are the same for both splits."""

    outputs: Tensor  # (N, K)
    labels: Tensor

    def logits(self, split: Literal["train", "val"]) -> tuple[Tensor, Tensor]:
        """See `pruneyard.workloads.interfaces.SplitLogits`."""
        return self.outputs, self.labels


def loss_inputs(
    network: Network, images: Tensor, labels: Tensor, *, memory: Tensors | None = None, seed: int = 0
) -> LossInputs:
    """Returns the inputs of a loss for images whose pixels are not normalised: black is 0 and white is 1."""
    black = torch.zeros(1, images.shape[1], 1, 1, dtype=images.dtype, device=images.device)
    return LossInputs(
        class_counts=labels if labels.is_meta else torch.bincount(labels),  # a tensor without numbers has no counts
        network=network,
        images=images,
        labels=labels,
        share=Share.whole(len(images)),
        rows=lambda: torch.arange(len(images)),
        memory=memory or {},
        pixels=PixelRange(black=black, white=black + 1),
        eval_mode=nullcontext,
        preserve_buffers=nullcontext,
        make_generator=lambda: torch.Generator().manual_seed(seed),
    )


def single_process_backward(network_tensors: NetworkTensors, num_rows: int) -> Backward:
    """Returns the backward pass of one process that has the whole batch, in float32."""
    return Backward(network_tensors=network_tensors, ranks=SINGLE_RANK, share=Share.whole(num_rows), scale=UnscaledLoss())


def loss_of_logits(objective: Objective, logits: Tensor, labels: list[int]) -> float:
    """Returns the loss of a network that has these logits."""
    images = torch.zeros(len(labels), 1, 1, 1)
    return float(objective.loss(loss_inputs(lambda _: logits, images, torch.tensor(labels)))[0])
