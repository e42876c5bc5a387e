"""The time of one training step of a small network on this machine's CPU, measured, for the estimate of `pruneyard plan`.

Counted FLOPs alone say little about small networks and batches: most of the time goes into calling the layers one by one.
"""

import logging
import time
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.flops import macs_of
from pruneyard.workloads.plugins import name_of
from pruneyard.workloads.seeding import global_stream

logger = logging.getLogger(__name__)

LOOP_S = 2e-4  # of a step beside the network's: batches, masks, schedule, records; measured on an MLP and a residual network
MAX_FLOPS = 1e9  # of one timed step: tens of milliseconds
MAX_PARAMETERS = 20_000_000  # a plan must not need the memory of the training
FEW_ROWS = 2
STEPS = 4


@cache
def seconds_per_step(model: ModelBuilder, *, image_shape: tuple[int, ...], num_outputs: int, batch_size: int) -> float | None:
    """Returns the time of one step of SGD with one thread, the shortest of several; None for a network too large to be tried.

    The time of a batch that takes too long is extrapolated from two smaller ones, as a constant and a part for each row.
    """
    with torch.device("meta"):
        network = model.build(image_shape=image_shape, num_classes=num_outputs)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    flops_per_row = 6 * sum(macs_of(model, image_shape, num_outputs).values())
    if num_parameters > MAX_PARAMETERS or flops_per_row > MAX_FLOPS:
        return None
    # Batch norm in training mode refuses a single row, where nothing but the channel is left.
    num_rows = min(batch_size, max(2 * FEW_ROWS, int(MAX_FLOPS // max(1, flops_per_row))))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with global_stream(0, "step-time"):
            network = model.build(image_shape=image_shape, num_classes=num_outputs).train()
            images = torch.rand(num_rows, *image_shape)
            step_s = _shortest_step(network, images, num_outputs)
            if num_rows < batch_size:
                per_row_s = (step_s - _shortest_step(network, images[:FEW_ROWS], num_outputs)) / (num_rows - FEW_ROWS)
                step_s += max(0.0, per_row_s) * (batch_size - num_rows)
    except Exception as error:  # whatever the code of a user's network raises; the training will report it
        logger.warning("no step of %s can be timed, so the estimate of its time is rough: %s", name_of(model), error)
        return None
    finally:
        torch.set_num_threads(threads)
    return LOOP_S + step_s


def _shortest_step(network: nn.Module, images: Tensor, num_outputs: int) -> float:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
    labels = torch.arange(len(images)) % num_outputs
    times = []
    for _ in range(1 + STEPS):  # the first step allocates memory and loads kernels
        started = time.process_time()  # not the time of day, to which other programs add theirs
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        times.append(time.process_time() - started)
    return min(times[1:])
