"""Peak memory of a training under every sparse method at density 0.1 (N:M: 0.5) relative to dense, same network.

Each in a process of its own: how far its resident memory grows from before the network is built to the last evaluation
before the end. The network is large and the batch small, so that weights, gradients, momenta and masks take most of the memory.
Run: python tests/benchmarks/peak_memory.py [METHOD ...], all methods by default.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
from pathlib import Path

import psutil
import torch
from sparse_step import methods
from training_loop import random_images

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.plugins import names
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

MODEL, ROWS, BATCH, STEPS, EVERY = Mlp(width=4096), 64, 8, 30, 10  # three epochs of eight steps, two updates in them


def grown_mib(name: str) -> float:
    """Returns by how many MiB the memory of one training grew."""
    torch.set_num_threads(1)
    data, method = random_images((1, 28, 28), ROWS), methods([name], every=EVERY)[name]
    before, highest = psutil.Process().memory_info().rss, 0
    recipe = Recipe(budget=Budget(steps=STEPS, batch_size=BATCH, checkpoint_every_s=1e9))
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        for progress in train(recipe, model=MODEL, method=method, data=data, seed=0, context=context):
            if progress.outcome is None:
                highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (highest - before) / 2**20


def main(names_given: list[str]) -> None:
    """Prints MiB and the ratio to dense."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        grown = {name: pool.apply(grown_mib, (name,)) for name in dict.fromkeys(["dense", *names_given])}
    for name, mib in grown.items():
        print(json.dumps({"method": name, "mib": round(mib), "to_dense": round(mib / grown["dense"], 2)}))


if __name__ == "__main__":
    main(sys.argv[1:] or names("sparse.methods"))
