"""A small network given by its weights, for scores that run a network, and permutations that keep its function."""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.training.backward import NetworkTensors
from pruneyard.workloads.training.functional_network import FunctionalModule

SHAPES = {
    "stem.weight": (8, 4, 3, 3),  # inputs come in fours, for methods that keep some of every four
    "zeta.weight": (16, 8, 3, 3),
    "alpha.weight": (32, 16, 1, 1),  # names are in no alphabetical order, as in real networks
    "head.weight": (10, 32),
}


class FourLayerNetwork(nn.Module):
    """A network with the weights of `SHAPES`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.zeta = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.alpha = nn.Conv2d(16, 32, 1, bias=False)
        self.head = nn.Linear(32, 10, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.alpha(self.zeta(self.stem(images).relu()).relu()).relu()
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


@cache
def rows(device: torch.device) -> DeviceSplit:
    """Returns thirty images of ten classes."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (30, 4, 6, 6), dtype=np.uint8)
    split = Split(images=images, labels=np.arange(30) % 10, row_ids=np.arange(30))
    return DeviceSplit(split, mean=(0.5,) * 4, std=(0.3,) * 4, device=device)


def functional_network_at(weights: dict[str, Tensor]) -> FunctionalModule:
    """Returns a functional network with these weights, on their device."""
    device = next(iter(weights.values())).device
    with torch.random.fork_rng(devices=[]):
        network = FourLayerNetwork().to(device)
    network.load_state_dict(weights)
    return FunctionalModule(
        network=network,
        network_tensors=NetworkTensors.of(network),
        split=rows(device),
        count_flops=lambda flops: None,
        forward_flops_per_row=0.0,
    )


def channel_permutations() -> dict[str, tuple[Tensor, Tensor]]:
    """Returns orders of every layer's outputs and inputs that keep the network's function; channels move in groups of four."""
    generator, orders = torch.Generator().manual_seed(5), {}
    inputs = torch.arange(SHAPES["stem.weight"][1])  # of the images
    for key, shape in SHAPES.items():
        groups = torch.arange(shape[0] // 4 * 4).reshape(-1, 4)
        groups = groups[torch.randperm(len(groups), generator=generator)]
        groups = torch.stack([group[torch.randperm(4, generator=generator)] for group in groups])
        outputs = torch.cat([groups.flatten(), torch.arange(groups.numel(), shape[0])])
        orders[key] = outputs, inputs
        inputs = outputs
    return orders
