"""The loss of a denoising autoencoder: the network restores inputs from noisy ones.

Reference: Vincent et al. 2008, Extracting and Composing Robust Features with Denoising Autoencoders (ICML)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors


@dataclass(frozen=True, kw_only=True)
class Denoising(StatelessObjective):
    """Half of the squared distance between the outputs for noisy inputs and the inputs without noise, mean over rows.

    noise: standard deviation of the Gaussian noise, in units of normalised features.
    """

    noise: float

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the loss and the unchanged memory; labels are not read."""
        clean = inputs.images
        shape = (inputs.share.total, *clean.shape[1:])
        noise = inputs.share.of(torch.randn(shape, generator=inputs.make_generator())).to(clean)
        distance = (inputs.network(clean + self.noise * noise) - clean).square().sum(dim=1)
        return distance.mean() / 2, inputs.memory
