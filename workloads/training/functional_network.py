"""The network of a training as a pure function of its weights, for methods that need more than one gradient to score them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.training.backward import NetworkTensors


@dataclass(frozen=True, kw_only=True)
class FunctionalModule:
    """Implements `pruneyard.workloads.training.mask_updater.FunctionalNetwork`."""

    network: nn.Module
    network_tensors: NetworkTensors
    split: DeviceSplit  # the training rows
    count_flops: Callable[[float], None]
    forward_flops_per_row: float  # of the dense network

    @property
    def weights(self) -> Tensors:
        """The current parameters and buffers of the network."""
        return self.network_tensors.weights()

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) of an image."""
        return self.split.image_shape

    def logits(self, weights: Tensors, images: Tensor, *, training: bool) -> Tensor:
        """Returns the logits `(B, K)`, computed without autocast and compilation in the precision of weights and images."""
        # a forward pass in training mode writes into running statistics, so buffers are copied
        given = {n: t.clone() if n in self.network_tensors.buffers else t for n, t in weights.items()}
        was_training = self.network.training
        self.network.train(training)
        try:
            outputs: Tensor = functional_call(self.network, given, (images,))
        finally:
            self.network.train(was_training)
        return outputs

    def rows(self, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns images and labels of up to `per_class` random rows of each class, class after class."""
        labels = self.split.labels.cpu()
        order = torch.randperm(len(labels), generator=generator)
        of_class = [order[labels[order] == label][:per_class] for label in labels.unique().tolist()]
        chosen = torch.cat(of_class).to(self.split.device)
        return self.split.normalise(self.split.images[chosen]), self.split.labels[chosen]

    def count(self, forwards: float, rows: int) -> None:
        """Counts dense forward passes: a method scores weights before it masks them."""
        self.count_flops(forwards * rows * self.forward_flops_per_row)
