"""Training on the real set, one pass at a time, so that a job can stop between two of them."""

import torch
from torch import nn
from torch.nn import functional

from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.distiller import RealSet


def one_pass(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    real: RealSet,
    *,
    batch_size: int,
    strategy: Strategy,
    draws: torch.Generator,
) -> float:
    """Trains `network` in place on all rows in a random order, each augmented by itself; the mean cross-entropy."""
    total = torch.zeros((), device=real.split.device)
    order = torch.randperm(len(real.split), generator=draws)
    for rows in order.split(batch_size):
        images, labels = real.images(rows), real.split.labels[rows.to(real.split.device)]
        if strategy.names:
            images = strategy.draw(draws, num=len(rows))(images)
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(rows)
    return float(total) / len(order)
