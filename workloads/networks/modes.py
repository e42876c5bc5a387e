"""Training and evaluation mode of the modules of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def preserve_modes(network: nn.Module) -> Iterator[None]:
    """In the block modes may change; after it every module has the one that it had."""
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
