"""Running statistics of norm layers, computed as plain means."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


@contextmanager
def cumulative_statistics(network: nn.Module) -> Iterator[None]:
    """Resets the running statistics of every norm and makes them plain means over the batches of the block.

    Only batches in training mode count. After the block the momenta are restored; the statistics keep their new values.
    """
    norms = [
        module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
