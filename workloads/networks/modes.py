"""Training and evaluation mode of the modules of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def preserve_modes(network: nn.Module) -> Iterator[None]:
    """Restores the mode of every module after the block."""
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
