"""SWAG: outputs of networks sampled from the weight distribution of a training run.

Reference: Maddox et al. 2019, A Simple Baseline for Bayesian Uncertainty in Deep Learning (arXiv:1902.02476)

Weights are usually collected once per epoch over the last quarter to half of training, at a constant learning rate; they are the
weights that the recipe's `average` option averages. Their moments are those of `pruneyard.workloads.training.swag_moments`.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pruneyard.workloads.networks.modes import preserve_modes
from pruneyard.workloads.networks.statistics import cumulative_statistics
from pruneyard.workloads.seeding import fork_rng, stream, stream_seed
from pruneyard.workloads.training.backward import NetworkTensors
from pruneyard.workloads.training.swag_moments import SwagMoments


@torch.no_grad()
def swag_logits(
    network: nn.Module,
    swag: SwagMoments,
    images: Iterable[Tensor],
    *,
    passing: Callable[[], Iterable[Tensor]],
    num_draws: int = 30,
    scale: float = 0.5,
    seed: int,
) -> Tensor:
    """Returns logits (num_draws, N, C), float32 on the CPU, of normalised image batches (B, C, H, W) for sampled networks.

    passing: returns batches of training images, over which the batch-norm statistics of every sampled network are recomputed
    in training mode; not called for networks without such statistics. Every sample has its own random stream. Weights,
    statistics and modes of the network are restored. 30 samples are usual (unverified: from general knowledge).
    """
    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}; it must be 1 or more")
    batches, network_tensors, found = list(images), NetworkTensors.of(network), []
    if not batches:
        raise ValueError("there are no images; there must be at least one batch")
    if swag.mean.keys() != network_tensors.parameters.keys():
        raise ValueError(
            f"the moments are of the parameters {list(swag.mean)}; they must be of {list(network_tensors.parameters)}"
        )
    device = batches[0].device
    for number in range(num_draws):
        drawn = swag.draw(stream(seed, "swag", number), scale=scale)
        there = {name: tensor.to(device) for name, tensor in drawn.items()}
        # Buffers are swapped in too, so the statistics of one sample do not reach the next.
        with preserve_modes(network), network_tensors.swap_weights({**network_tensors.weights(), **there}):
            if network_tensors.norms:
                # The pass is in training mode, in which dropout samples.
                with fork_rng(device, stream_seed(seed, "swag-statistics", number)):
                    pass_through(network, passing())
            network.eval()
            found.append(torch.cat([network(batch).float() for batch in batches]).cpu())
    return torch.stack(found)


def pass_through(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets running statistics to their means over these batches; the network is in training mode afterwards."""
    network.train()
    with cumulative_statistics(network):
        for batch in batches:
            network(batch)
