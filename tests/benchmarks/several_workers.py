"""Cost and benefit of several workers: a step of two against a step of one at equal global batch, and the start of a Train run.

The loop: the same training by one process and by two ranks over gloo on loopback, one thread each, in rounds that alternate;
the ratio is the median of the rounds' ratios of training time. The start: a study on Ray of one job of two workers, from its
submission to its first evaluation and from its last evaluation to its record, against one worker in a process that already
runs. With --loop, only the loop is measured. Run: python tests/benchmarks/several_workers.py [--loop]
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))

from orchestration import run_whole
from pair import Pair
from training_loop import random_images

from pruneyard.cluster.session import Session, session
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.ranks import SINGLE_RANK, DistributedRanks, Ranks
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

ROUNDS = 3
CASES: dict[str, tuple[ModelBuilder, tuple[int, int, int], int, int]] = {  # rows, and rows in a batch
    "mlp 256-256, 1x28x28, batch 128": (Mlp(), (1, 28, 28), 25_600, 128),
    "mlp 1024-1024, 1x28x28, batch 512": (Mlp(width=1024), (1, 28, 28), 5_120, 512),
    "convnet width 32 with batch norm, 3x32x32, batch 128": (
        ConvNet(width=32, norm="batch"),
        (3, 32, 32),
        640,
        128,
    ),
}


def seconds(name: str, ranks: Ranks) -> float:
    """Returns the training time of one epoch."""
    model, shape, num_rows, batch_size = CASES[name]
    data = random_images(shape, num_rows)
    recipe = Recipe(
        budget=Budget(epochs=1, batch_size=batch_size, evaluate_every=0, checkpoint_every_s=1e9),
        optimizer=SGD(),
    )
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)), ranks=ranks)
        *_, last = train(recipe, model=model, method=Dense(), data=data, seed=0, context=context)
    assert last.outcome is not None
    return last.outcome.train_s


def seconds_of_rank(name: str) -> float:
    """Runs one of a pair of ranks and returns its seconds."""
    return seconds(name, DistributedRanks())


def loops(folder: Path) -> None:
    """Prints, for each case, steps per second of one process and of two, and the ratio."""
    torch.set_num_threads(1)
    pair = Pair(folder)
    try:
        for name, (_, _, num_rows, batch_size) in CASES.items():
            rounds = [(seconds(name, SINGLE_RANK), max(pair.run(seconds_of_rank, name))) for _ in range(ROUNDS)]
            steps = num_rows // batch_size
            one, two = (round(steps / statistics.median(times), 1) for times in zip(*rounds, strict=True))
            ratio = round(statistics.median(alone / both for alone, both in rounds), 2)
            print(json.dumps({"case": name, "steps_per_s": {"one": one, "two": two}, "two/one": ratio}))
    finally:
        pair.kill()


def timed_study(joined: Session, folder: RunFolder, workers: int) -> tuple[float, float, float]:
    """Returns the seconds from submission to the first evaluation, of training, and from the last evaluation to the record."""
    spec = load_spec(
        {
            "name": "start",
            "kind": "sparse",
            "data": "digits",
            "model": {"name": "mlp", "width": 64},
            "method": {"name": "rigl", "density": 0.2},
            "budget": {"epochs": 2},
            "resources": {"workers": workers},
        }
    )
    monitor = _Timed(total=1, num_already_done=0)
    started, ended = run_whole(spec, joined, folder, monitor)
    assert [row["num_workers"] for row in Store(folder).runs().to_pylist()] == [workers]
    first, last = monitor.heard_at[0], monitor.heard_at[-1]
    return first - started, last - first, ended - last


@dataclass
class _Timed(Monitor):
    """Records the time of a report."""

    heard_at: list[float] = field(default_factory=list)

    def record(self, report: Report) -> None:
        """Records the report and its time."""
        self.heard_at.append(time.perf_counter())
        super().record(report)


def starts(folder: Path) -> None:
    """Prints seconds of a study of one job, by one worker and by two."""
    with session() as joined:
        timed_study(joined, RunFolder(folder / "warm"), 1)
        for workers in (1, 2):
            parts = timed_study(joined, RunFolder(folder / str(workers)), workers)
            names = ("to_first_evaluation", "first_to_last", "last_to_end")
            found = dict(zip(names, (round(part, 2) for part in parts), strict=True))
            print(json.dumps({"workers": workers, "seconds": found}))


def main(measures: list[Callable[[Path], None]]) -> None:
    """Measures each case in a folder of its own."""
    for measure in measures:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder))


if __name__ == "__main__":
    main([loops] if "--loop" in sys.argv else [loops, starts])
