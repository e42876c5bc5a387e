"""Training under `execution: sparse` against `masked` from start to end: time to the accuracy of the masked run.

MNIST with an MLP of width 1024, or the embedded table `breast_cancer` with one of width 2048; SET at density 0.02, one thread.
Seeds and executions take turns. Validation accuracy is measured after every epoch. The target is the lowest, over seeds, of the
best accuracies of the masked trainings; the time to it is CPU time, with mask updates and evaluations, which is steadier than
wall time beside other work. Energy is that of the whole machine, where it counts any (`energy.py`). Prints each training, then
the difference in test accuracy, sparse - masked, paired by seed with its 95% t interval, and the ratios of times, masked over
sparse. Reads MNIST from $PRUNEYARD_DATA.
Run: python tests/benchmarks/sparse_end_to_end.py [--data mnist breast_cancer] [--epochs 3] [--seeds 3]
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from energy import EnergyMeter, counters

from pruneyard.reports.statistics.intervals import estimate
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.breast_cancer import BreastCancer
from pruneyard.workloads.data.sources.mnist import Mnist
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

DENSITY = 0.02
COMPARED: tuple[Execution, ...] = ("masked", "sparse")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A data set with what trains on it."""

    source: Mnist | BreastCancer
    width: int
    batch_size: int
    update_every: int  # steps
    lr: float


STUDIES = {
    "mnist": Study(source=Mnist(), width=1024, batch_size=128, update_every=100, lr=0.1),
    "breast_cancer": Study(source=BreastCancer(), width=2048, batch_size=32, update_every=20, lr=0.1),
}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One training: CPU seconds and validation accuracy at the end of every epoch."""

    test_accuracy: float
    curve: list[tuple[float, float]]
    total_s: float
    joules: dict[str, float]  # by device that counts them

    def seconds_to(self, target: float) -> float | None:
        """Returns the CPU seconds to the first evaluation that reaches an accuracy; None if none does."""
        return next((seconds for seconds, accuracy in self.curve if accuracy >= target), None)


def trained(study: Study, execution: Execution, data: Dataset, *, seed: int, epochs: int) -> Trained:
    """Trains once."""
    recipe = Recipe(
        budget=Budget(epochs=epochs, batch_size=study.batch_size, checkpoint_every_s=1e9),
        optimizer=SGD(lr=study.lr, momentum=0.9, weight_decay=1e-4),
    )
    method = SET(density=DENSITY, schedule=UpdateSchedule(every=study.update_every))
    curve: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        meter, started = EnergyMeter(counters()), time.process_time()
        for last in train(
            recipe, model=Mlp(width=study.width), method=method, data=data, seed=seed, execution=execution, context=context
        ):
            values = {(metric.split, metric.name): metric.value for metric in last.metrics}
            curve.append((time.process_time() - started, values["val", "accuracy"]))
        spent, joules = time.process_time() - started, meter.joules()
    return Trained(test_accuracy=values["test", "accuracy"], curve=curve, total_s=spent, joules=joules)


def compare(name: str, *, epochs: int, num_seeds: int) -> None:
    """Prints a line for each training, and one that compares."""
    study = STUDIES[name]
    data = study.source.load()
    found: dict[str, list[Trained]] = {execution: [] for execution in COMPARED}
    for seed in range(num_seeds):
        for execution in COMPARED:
            one = trained(study, execution, data, seed=seed, epochs=epochs)
            found[execution].append(one)
            line = {"data": name, "execution": execution, "seed": seed, "test/accuracy": round(one.test_accuracy, 4)}
            line |= {"val/accuracy": [round(accuracy, 4) for _, accuracy in one.curve], "cpu_s": round(one.total_s, 2)}
            line |= {"joules": one.joules} if one.joules else {}
            print(json.dumps(line), flush=True)
    if not counters():
        print("energy: not counted on this machine", flush=True)
    pairs = list(zip(found["masked"], found["sparse"], strict=True))
    difference = estimate([sparse.test_accuracy - masked.test_accuracy for masked, sparse in pairs])
    target = min(max(accuracy for _, accuracy in masked.curve) for masked in found["masked"])
    times = [tuple(one.seconds_to(target) for one in pair) for pair in pairs]
    reached = [None if first is None or other is None else round(first / other, 2) for first, other in times]
    totals = [masked.total_s / sparse.total_s for masked, sparse in pairs]
    line = {"data": name, "epochs": epochs, "masked / sparse time": round(statistics.median(totals), 2)}
    interval = [round(float(end), 4) for end in (difference.mean, difference.low, difference.high)]
    line |= {"target": round(target, 4), "masked / sparse time to it, by seed": reached}
    line |= {"sparse - masked accuracy: mean, low, high": interval}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sparse against masked training from start to end.")
    parser.add_argument("--data", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for each in options.data:
        compare(each, epochs=options.epochs, num_seeds=options.seeds)
