"""Bytes per active weight of `execution: sparse`, by formula and as measured by the peak of a process.

Static masks, and SET, whose updates need temporary tensors. An MLP with one large hidden layer at batch size 16, SGD with
momentum, some steps and two updates, in a process of its own at two densities. The quotient of the differences in peak resident
memory and in active weights leaves out what does not grow with the density. The formula counts what lives through a step: value,
gradient and momentum in float32, and three int32 of the index (the column, and the row and the place in the transpose).
Run: python tests/benchmarks/sparse_memory.py; --help names the options.
"""

import argparse
import multiprocessing
import resource

import psutil
import torch
from sparse_execution import Case, Trainee
from training_loop import random_images

BYTES = 4 * (3 + 3)
DENSITIES = 0.004, 0.016


def grown(method: str, width: int, density: float) -> tuple[int, int]:
    """Bytes by which a process grows at its peak, and the number of active weights."""
    torch.set_num_threads(1)
    case = Case(network="mlp", width=width, method=method, density=density)
    data = random_images((1, 28, 28), 32)
    before = psutil.Process().memory_info().rss
    trainee = Trainee(case, "sparse", data, batch_size=16)
    trainee.seconds_per_step(2, lambda: 0.0)
    trainee.seconds_per_step(1, lambda: 0.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak - before, sum(index.num_active for index in trainee.training.applied.layers.indices.values())


def main(arguments: argparse.Namespace) -> None:
    """Prints a Markdown table."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["__main__"])
    low_density, high_density = DENSITIES
    print(f"| method | MiB at density {low_density} | MiB at {high_density} | bytes per active weight | formula |")
    print("|---|---|---|---|---|")
    for method in arguments.method:
        with processes.Pool(1, maxtasksperchild=1) as pool:
            (low, few), (high, many) = (pool.apply(grown, (method, arguments.width, density)) for density in DENSITIES)
        slope = (high - low) / (many - few)
        print(f"| {method} | {low / 2**20:.0f} | {high / 2**20:.0f} | {slope:.1f} | {BYTES} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Bytes per active weight of sparse execution.")
    parser.add_argument("--method", nargs="+", default=["static", "set"])
    parser.add_argument("--width", type=int, default=16_384)
    main(parser.parse_args())
