"""The segment between the weights of two finished networks, with batch-norm statistics computed at every point."""

import math
from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.networks.modes import preserve_modes
from pruneyard.workloads.networks.statistics import cumulative_statistics
from pruneyard.workloads.probe.probe import BATCH_SIZE, logits_of


def between(one: nn.Module, other: nn.Module, place: float) -> nn.Module:
    """Returns a network with the weights (1 - place) one + place other; buffers are those of `one`."""
    mixed = deepcopy(one)
    others = dict(other.named_parameters())
    with torch.no_grad():
        for name, parameter in mixed.named_parameters():
            parameter.copy_(torch.lerp(parameter, others[name], place))
    return mixed


@torch.no_grad()
def refresh(network: nn.Module, rows: DeviceSplit) -> None:
    """Sets the running statistics of norms to means over `rows`, in place; other networks are not changed."""
    with preserve_modes(network), cumulative_statistics(network):
        network.eval()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.train()  # dropout stays off
        # Batches of one size, because each counts the same in these means.
        num_batches = math.ceil(len(rows) / BATCH_SIZE)
        for images, _ in rows.batches(math.ceil(len(rows) / num_batches)):
            network(images)


def scores(network: nn.Module, rows: Mapping[str, DeviceSplit], *, num_classes: int) -> dict[str, tuple[float, float]]:
    """Returns the cross-entropy in nats and the accuracy on every split."""
    found = {}
    for name, split in rows.items():
        logits, labels = logits_of(network, split, num_classes=num_classes), split.labels.cpu()
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        found[name] = float(functional.cross_entropy(logits, labels)), float(accuracy)
    return found


def excess(values: Tensor) -> Tensor:
    """Returns how far values (P,) at evenly spread places of a segment lie above the line between its ends, (P,)."""
    places = torch.linspace(0, 1, len(values), dtype=values.dtype)
    return values - torch.lerp(values[0], values[-1], places)
