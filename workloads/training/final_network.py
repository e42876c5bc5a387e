"""The network that a training would end with at its current step, and its logits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.networks.statistics import cumulative_statistics
from pruneyard.workloads.seeding import fork_rng, stream, stream_seed
from pruneyard.workloads.training.state import Training

EVALUATION_BATCH = 1000  # rows per forward pass; results do not depend on it beyond rounding


@contextmanager
def final_network(training: Training) -> Iterator[None]:
    """Puts the final weights into the network and sets it to evaluation mode; restores both after the block."""
    averages = training.mean.num > 0
    swap_weights = training.network_tensors.swap_weights
    final_weights = swap_weights(averaged_weights(training)) if averages else training.applied.final_weights()
    with final_weights, training.eval_mode():
        yield


def averaged_weights(training: Training) -> Tensors:
    """Returns the mean of the weight samples, with running statistics computed for this mean and cached."""
    mean = training.mean
    if training.mean_buffers[0] != mean.num:
        training.mean_buffers = mean.num, _compute_buffers(training, mean.tensors)
    return {**mean.tensors, **training.mean_buffers[1]}


@torch.no_grad()
def _compute_buffers(training: Training, parameters: Tensors) -> Tensors:
    """Returns the network's buffers for these parameters; batch norm statistics are means over one epoch of augmented batches.

    The statistics that the network gathered belong to the trained weights; at their mean the activations differ.
    """
    network_tensors, rows, num = training.network_tensors, training.rows, training.mean.num
    if not network_tensors.buffers:
        return {}
    generator = stream(training.seed, "refresh", num)
    order = torch.randperm(len(rows), generator=generator)[: training.rows_per_epoch]
    seed = stream_seed(training.seed, "refresh-forward", num)
    weights = {**network_tensors.weights(), **parameters}
    with fork_rng(training.device, seed), network_tensors.swap_weights(weights):
        with cumulative_statistics(training.network), training.autocast():
            for batch in order.split(training.recipe.budget.batch_size):
                training.forward(rows.batch(batch, training.recipe.augment, generator)[0])
        current = network_tensors.weights()
        return {name: current[name] for name in network_tensors.buffers}


@torch.no_grad()
def final_logits(training: Training, split: DeviceSplit) -> Tensor:
    """Returns the logits `(N, K)` of the final network on a split, float32 on the CPU."""
    with final_network(training):
        return current_logits(training, split)


@torch.no_grad()
def current_logits(training: Training, split: DeviceSplit) -> Tensor:
    """Returns the logits `(N, K)` of the network with its current weights and mode, float32 on the CPU."""
    with training.autocast():
        logits = [training.forward(images).float() for images, _ in split.batches(EVALUATION_BATCH)]
    return torch.cat(logits).cpu()
