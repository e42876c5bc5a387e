"""Finds networks that compute the same function: a hash of what they compute on fixed inputs, and a comparison of their outputs.

The hash is that of the predicted classes, so it hardly depends on rounding, and not on how weights are arranged.
Different functions may have equal hashes, so `KnownFunctions` compares the log-probabilities of networks with equal hashes.

Reference: Gillard et al. 2023, Unified Functional Hashing in Automatic Machine Learning (arXiv:2302.05433). Only the abstract was
read. Unverified: that the hash is made of predicted classes, and the comparison after it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruneyard.workloads.networks.modes import preserve_modes

TOLERANCE = 1e-3  # nats


def fixed_inputs(shape: Sequence[int], num: int, *, seed: int = 0) -> Tensor:
    """Returns standard normal inputs (num, *shape), which depend on the seed and the shape alone."""
    return torch.randn((num, *shape), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def log_probabilities(network: nn.Module, inputs: Tensor, *, num_classes: int | None = None) -> Tensor:
    """Returns what a network computes in evaluation mode, (N, K) float32 on the CPU; its modes stay as they are.

    inputs: (N, ...) on the network's device. num_classes: the outputs that are classes, the first ones; left out: all.
    """
    with preserve_modes(network):
        network.eval()
        outputs: Tensor = network(inputs)
    return outputs[:, :num_classes].float().log_softmax(dim=1).cpu()


def hash_of(outputs: Tensor) -> str:
    """Returns 16 hexadecimal digits of the predicted classes of outputs (N, K)."""
    classes = outputs.argmax(dim=1).to(torch.int64).numpy()
    return hashlib.blake2b(classes.tobytes(), digest_size=8).hexdigest()


def function_hash(network: nn.Module, inputs: Tensor, *, num_classes: int | None = None) -> str:
    """Returns the hash of a network on inputs (N, ...), such as `fixed_inputs`."""
    return hash_of(log_probabilities(network, inputs, num_classes=num_classes))


@dataclass(kw_only=True)
class KnownFunctions:
    """The functions that were seen so far, by the name of the first network that computed each.

    tolerance: the largest difference of a log-probability within one function, in nats.

    To find networks whose training would repeat an earlier one:

        known, inputs = KnownFunctions(), fixed_inputs((1, 28, 28), 256)
        twin = known.add("candidate 7", log_probabilities(network, inputs))   # None, or the name of the earlier network
    """

    tolerance: float = TOLERANCE
    _firsts: dict[str, list[tuple[str, Tensor]]] = field(default_factory=dict)

    def add(self, name: str, outputs: Tensor) -> str | None:
        """Returns the name of the first network with this function, or None for a new function, which is kept under `name`.

        outputs: log-probabilities (N, K) on the same inputs for all networks.
        """
        alike = self._firsts.setdefault(hash_of(outputs), [])
        for earlier, known in alike:
            if known.shape == outputs.shape and float((known - outputs).abs().max()) <= self.tolerance:
                return earlier
        alike.append((name, outputs))
        return None
