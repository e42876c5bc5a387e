"""Training on the real set, one epoch at a time, so that a job can stop between two epochs."""

import torch
from torch import nn
from torch.nn import functional

from pruneyard.workloads.data.batches import split_rows
from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.distiller import RealSet


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    real: RealSet,
    *,
    batch_size: int,
    strategy: Strategy,
    generator: torch.Generator,
) -> float:
    """Trains `network` in place on all rows in a random order, each augmented separately; returns the mean cross-entropy."""
    # Summed on the device: reading every loss would wait for it.
    total = torch.zeros((), device=real.split.device)
    order = torch.randperm(len(real.split), generator=generator)
    for rows in split_rows(order, batch_size):
        images, labels = real.images(rows), real.split.labels[rows.to(real.split.device)]
        if strategy.names:
            images = strategy.sample(generator, num=len(rows))(images)
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(rows)
    return float(total) / len(order)
