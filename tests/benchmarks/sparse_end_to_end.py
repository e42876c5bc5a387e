"""Training under `execution: sparse` against `masked` on MNIST from start to end: SET at density 0.02, MLP of width 1024.

One thread; seeds and executions take turns. A training's time is the CPU time of the whole loop, with mask updates and the final
evaluation; it is steadier than wall time beside other work. Prints each training, then the difference in test accuracy,
sparse - masked, paired by seed with its 95% t interval, and the median ratio of the times. Reads MNIST from $PRUNEYARD_DATA.
Run: python tests/benchmarks/sparse_end_to_end.py [EPOCHS], 3 by default.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from pruneyard.reports.statistics.intervals import estimate
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.mnist import Mnist
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

SEEDS, DENSITY = range(3), 0.02
MODEL = Mlp(width=1024)
COMPARED: tuple[Execution, ...] = ("masked", "sparse")


def trained(execution: Execution, data: Dataset, *, seed: int, epochs: int) -> tuple[float, float]:
    """Test accuracy, and CPU seconds."""
    recipe = Recipe(
        budget=Budget(epochs=epochs, batch_size=128, evaluate_every=0, checkpoint_every_s=1e9),
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4),
    )
    method = SET(density=DENSITY)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        started = time.process_time()
        *_, last = train(
            recipe, model=MODEL, method=method, data=data, seed=seed, execution=execution, context=context
        )
        spent = time.process_time() - started
    (accuracy,) = [metric.value for metric in last.metrics if (metric.split, metric.name) == ("test", "accuracy")]
    return accuracy, spent


def main(epochs: int) -> None:
    """Prints a line for each training, and one that compares."""
    torch.set_num_threads(1)
    data = Mnist().load()
    found: dict[str, list[tuple[float, float]]] = {execution: [] for execution in COMPARED}
    for seed in SEEDS:
        for execution in COMPARED:
            found[execution].append(trained(execution, data, seed=seed, epochs=epochs))
            accuracy, spent = found[execution][-1]
            line = {"execution": execution, "seed": seed, "test/accuracy": round(accuracy, 4), "cpu_s": round(spent, 1)}
            print(json.dumps(line), flush=True)
    pairs = list(zip(found["masked"], found["sparse"], strict=True))
    difference = estimate([sparse[0] - masked[0] for masked, sparse in pairs])
    ratio = statistics.median(masked[1] / sparse[1] for masked, sparse in pairs)
    interval = [round(float(end), 4) for end in (difference.mean, difference.low, difference.high)]
    print(json.dumps({"sparse - masked: mean, low, high": interval, "masked / sparse time": round(ratio, 2)}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
