"""MC dropout: forward passes of a finished network with only its dropout layers in training mode.

Reference: Gal and Ghahramani 2016, Dropout as a Bayesian Approximation (arXiv:1506.02142)
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from pruneyard.workloads.networks.modes import preserve_modes
from pruneyard.workloads.seeding import fork_rng, stream_seed


@torch.no_grad()
def mc_dropout_logits(network: nn.Module, images: Iterable[Tensor], passes: int, seed: int) -> Tensor:
    """Returns logits (passes, N, C), float32 on the CPU, of normalised batches of images, each (B, C, H, W).

    Every pass has its own random stream: the first passes do not depend on the number of passes, but they do depend on the
    batch size. 10 to 50 passes are usual. The modes of the network and the state of torch's generators are restored.
    Raises `ValueError` for a network without dropout, for fewer than one pass and for no images.
    """
    if passes < 1:
        raise ValueError(f"passes is {passes}; it must be 1 or more")
    # Every pass reads the batches again, which an iterator would allow once.
    batches = list(images)
    if not batches:
        raise ValueError("there are no images; there must be at least one batch")
    found = []
    with dropout_only_training(network):
        for number in range(passes):
            # Dropout layers use torch's global generators.
            with fork_rng(batches[0].device, stream_seed(seed, "mc-dropout", number)):
                found.append(torch.cat([network(batch).float() for batch in batches]).cpu())
    return torch.stack(found)


@contextmanager
def dropout_only_training(network: nn.Module) -> Iterator[None]:
    """Puts dropout layers in training mode and all others in evaluation mode within the block."""
    layers = [module for module in network.modules() if isinstance(module, _DropoutNd) and module.p > 0]
    if not layers:
        raise ValueError("the network has no dropout, so all passes would be equal; use a model with dropout")
    with preserve_modes(network):
        network.eval()
        for layer in layers:
            layer.train()
        yield
