"""The network of a training as a pure function, for methods that score its weights by more than one gradient."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.training.backward import Prober


@dataclass(frozen=True, kw_only=True)
class NetworkBench:
    """See `pruneyard.workloads.training.mask_updater.FunctionalNetwork`."""

    network: nn.Module
    prober: Prober
    split: DeviceSplit  # the training rows
    count_flops: Callable[[float], None]
    forward_flops_per_row: float  # of the dense network

    @property
    def weights(self) -> Tensors:
        """As they stand."""
        return self.prober.weights()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.split.image_shape

    def logits(self, weights: Tensors, images: Tensor, *, training: bool) -> Tensor:
        """In the precision of the weights and images; never compiled."""
        given = {
            n: t.clone() if n in self.prober.buffers else t for n, t in weights.items()
        }  # training moves buffers
        was_training = self.network.training
        self.network.train(training)
        try:
            outputs: Tensor = functional_call(self.network, given, (images,))
        finally:
            self.network.train(was_training)
        return outputs

    def rows(self, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """In random order within each class, class after class."""
        labels = self.split.labels.cpu()
        order = torch.randperm(len(labels), generator=generator)
        of_class = [order[labels[order] == label][:per_class] for label in labels.unique().tolist()]
        chosen = torch.cat(of_class).to(self.split.device)
        return self.split.normalise(self.split.images[chosen]), self.split.labels[chosen]

    def count(self, forwards: float, rows: int) -> None:
        """Dense passes: masks are not yet chosen, or looked past."""
        self.count_flops(forwards * rows * self.forward_flops_per_row)
