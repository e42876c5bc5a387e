"""Widths at which a sparse MLP costs what a dense one costs: by counted FLOPs, and by the measured time of a step.

MNIST shapes, batch size 128, RigL's masks, one thread, `execution: sparse`. The time of a step is the CPU time of whole trainings
of two lengths, divided by the difference; dense and sparse take turns, and the median over the rounds counts. The width of
equal time is interpolated between two measured widths. Prints one line for each density. Reads MNIST from $PRUNEYARD_DATA.
Run: python tests/benchmarks/iso_flop_step.py [--width 128] [--density 0.2 0.1 0.05] [--rounds 5]
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.mnist import Mnist
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.iso_flop import widened
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

SHORT, LONG = 10, 50
SHARES = (0.05, 0.15, 0.3, 0.6, 1.0)  # of the width by FLOPs, that are measured


def trained_s(model: Any, method: Any, data: Dataset, num_steps: int) -> float:
    """Returns the CPU seconds of a training without evaluation before its end."""
    budget = Budget(steps=num_steps, batch_size=128, evaluate_every=0, checkpoint_every_s=1e9)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        execution = "masked" if isinstance(method, Dense) else "sparse"
        recipe = Recipe(budget=budget, optimizer=SGD(lr=0.1, momentum=0.9))
        started = time.process_time()
        for _ in train(recipe, model=model, method=method, data=data, execution=execution, seed=0, context=context):
            pass
        return time.process_time() - started


def step_ms(model: Any, method: Any, data: Dataset) -> float:
    """Returns the CPU milliseconds of a step."""
    return 1e3 * (trained_s(model, method, data, LONG) - trained_s(model, method, data, SHORT)) / (LONG - SHORT)


def main() -> None:
    """Prints a line for each density."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=128, help="of the dense network")
    parser.add_argument("--density", type=float, nargs="+", default=[0.2, 0.1, 0.05])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = Mnist(max_train=6000, max_test=100).load()
    data = replace(whole, val=whole.val.take(np.arange(10)), calib=whole.calib.take(np.arange(10)))
    base = Mlp(width=options.width)
    for density in options.density:
        method = RigL(density=density, schedule=UpdateSchedule(every=20))
        by_flops: Any = widened(base, method, image_shape=data.image_shape, num_outputs=10)
        widths = [int(share * by_flops.width) for share in SHARES]
        rounds = [
            [step_ms(base, Dense(), data), *(step_ms(Mlp(width=width), method, data) for width in widths)]
            for _ in range(options.rounds)
        ]
        dense_ms, *sparse_ms = (statistics.median(column) for column in zip(*rounds, strict=True))
        equal = float(np.interp(dense_ms, np.maximum.accumulate(sparse_ms), widths))
        line = {"density": density, "width by flops": by_flops.width, "width by time": round(equal)}
        line["dense_ms"] = round(dense_ms, 2)
        print(json.dumps({**line, "sparse_ms": {w: round(ms, 2) for w, ms in zip(widths, sparse_ms, strict=True)}}), flush=True)


if __name__ == "__main__":
    main()
