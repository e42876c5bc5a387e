"""Bytes per active weight of `execution: sparse`, by formula and as measured by the peak of a process; and a very wide MLP.

Static masks, and SET, whose updates need temporary tensors. An MLP with one large hidden layer at batch size 16, SGD with
momentum, some steps and two updates, in a process of its own at two densities. The quotient of the differences in peak resident
memory and in active weights leaves out what does not grow with the density.

Formula: through a step live value, gradient and momentum in float32 and three int32 of the index (the column, and the row and
the place in the transpose), 24 bytes; 4 more at the peak of the backward pass, for the values in the order of the transpose. An
update frees the transpose, and needs at its peak the new columns, where each weight comes from, and one moved tensor: 28 again.

Measured twice: as the process is, and with MALLOC_MMAP_THRESHOLD_=65536, with which the C library returns every large block as
soon as it is freed. By default it keeps freed blocks below 32 MiB for later, and so memory that nothing uses.

With --large: an MLP 3072-32768-32768-10 at density 0.005 on one batch of 64 images of noise with random labels, by SET with an
update every 10 steps, one thread; losses are means over 10 steps. One dense copy of its middle layer takes 4.3 GB.
Run: python tests/benchmarks/sparse_memory.py [--large]; --help names the options.
"""

import argparse
import json
import multiprocessing
import os
import resource
import time

import psutil
import torch
from sparse_execution import Case, Trainee
from training_loop import random_images

BYTES = 4 * (3 + 3)
PEAK = BYTES + 4
DENSITIES = 0.004, 0.016
ALLOCATORS = {"as it is": {}, "freed blocks returned": {"MALLOC_MMAP_THRESHOLD_": "65536"}}


def peak_bytes() -> int:
    """Returns the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def num_stored(trainee: Trainee) -> int:
    """Returns the number of weights that are stored sparse."""
    return sum(index.num_active for index in trainee.training.applied.layers.indices.values())


def grown(method: str, width: int, density: float) -> tuple[int, int]:
    """Bytes by which a process grows at its peak, and the number of active weights."""
    torch.set_num_threads(1)
    case = Case(network="mlp", width=width, method=method, density=density)
    data = random_images((1, 28, 28), 32)
    before = psutil.Process().memory_info().rss
    trainee = Trainee(case, "sparse", data, batch_size=16)
    trainee.seconds_per_step(2, lambda: 0.0)
    trainee.seconds_per_step(1, lambda: 0.0)
    return peak_bytes() - before, num_stored(trainee)


def in_new_process(environment: dict[str, str], method: str, width: int, density: float) -> tuple[int, int]:
    """Runs `grown` in a process that starts with these environment variables."""
    os.environ.update(environment)
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(grown, (method, width, density))
    finally:
        for name in environment:
            del os.environ[name]


def train_large(steps: int) -> None:
    """Trains the wide MLP and prints a line for every ten steps."""
    torch.set_num_threads(1)
    data, before, started = random_images((3, 32, 32), 64), psutil.Process().memory_info().rss, time.process_time()
    case = Case(network="mlp", width=32_768, method="set", density=0.005)
    trainee = Trainee(case, "sparse", data, batch_size=64, every=10, lr=0.05)
    training = trainee.training
    facts = {"active": num_stored(trainee), "weights": sum(training.applied.layers.sizes.values())}
    print(json.dumps(facts | {"start_cpu_s": time.process_time() - started}), flush=True)
    for first in range(0, steps, 10):
        started = time.process_time()
        for _ in range(10):
            trainee.step()
        line = {"step": first + 10, "loss": training.losses.take(), "cpu_s_per_step": (time.process_time() - started) / 10}
        print(json.dumps(line | {"peak_mib": (peak_bytes() - before) / 2**20}), flush=True)


def main(arguments: argparse.Namespace) -> None:
    """Prints a Markdown table, or the lines of the large network."""
    if arguments.large:
        train_large(arguments.steps)
        return
    low_density, high_density = DENSITIES
    print(f"| method | freed memory | MiB at density {low_density} | MiB at {high_density} | bytes per active weight | formula |")
    print("|---|---|---|---|---|---|")
    for method in arguments.method:
        for name, environment in ALLOCATORS.items():
            (low, few), (high, many) = (
                in_new_process(environment, method, arguments.width, density) for density in DENSITIES
            )
            slope = (high - low) / (many - few)
            print(f"| {method} | {name} | {low / 2**20:.0f} | {high / 2**20:.0f} | {slope:.1f} | {PEAK} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Bytes per active weight of sparse execution.")
    parser.add_argument("--method", nargs="+", default=["static", "set"])
    parser.add_argument("--width", type=int, default=16_384)
    parser.add_argument("--large", action="store_true", help="train the MLP 3072-32768-32768-10 instead")
    parser.add_argument("--steps", type=int, default=30, help="of the large network")
    main(parser.parse_args())
