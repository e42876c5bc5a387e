"""Step time and peak memory of `execution: sparse` and `auto` relative to `masked`: whole training steps of ours.

Each step is what the training loop does: a batch gathered and normalised, forward, backward, optimizer. An MLP 784-N-N-10 at
batch size 128, a small vision transformer at 64, or a recommender with 243,000 rows in its tables at 256. The three executions
take turns within each round, and a ratio is the median over the rounds. With one thread the time is CPU time, because that is
steadier than wall time beside other work; with more it is wall time. RigL counts 99 steps and one mask update. Peak memory is of
one execution in a process of its own: how far its resident memory grows from before the network is built.
Run: python tests/benchmarks/sparse_execution.py --network mlp vit recommender --threads 1 2 --memory; --help names the options.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import altair as alt
import pandas as pd
import psutil
import torch
from torch import Tensor
from training_loop import random_images

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.clicks import Clicks
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.models.recommender import Recommender
from pruneyard.workloads.models.vit_tiny import ViTTiny
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import find
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.state import Training

EXECUTIONS: tuple[Execution, ...] = get_args(Execution)
EVERY = 100  # steps between mask updates
NUM_STEPS = 1_000  # of the budget, so that updates at steps 100 to 700 are due
PLAIN = Plain()
WIDTHS = {"mlp": [256, 1024, 4096, 8192], "vit": [192], "recommender": [16, 64]}
ROWS = (100_000, 50_000, 50_000, 25_000, 10_000, 5_000, 2_500, 500)  # of the recommender's tables


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network of one size under one method at one density."""

    network: str  # mlp, vit or recommender
    width: int
    method: str
    density: float
    pattern: str = "unstructured"

    @property
    def batch_size(self) -> int:
        return {"mlp": 128, "vit": 64, "recommender": 256}[self.network]

    @property
    def model(self) -> ModelBuilder:
        if self.network == "recommender":
            return Recommender(rows=ROWS, size=self.width)
        return Mlp(width=self.width) if self.network == "mlp" else ViTTiny(width=self.width, depth=4)

    def images(self) -> Dataset:
        """Returns two batches of noise, or of generated events."""
        if self.network == "recommender":
            return Clicks(cardinalities=ROWS, num_train=4 * self.batch_size, num_test=10).load()
        return random_images((1, 28, 28) if self.network == "mlp" else (3, 32, 32), 2 * self.batch_size)


def seconds(act: Callable[[], None], clock: Callable[[], float]) -> float:
    """Returns how long an action takes by a clock."""
    started = clock()
    act()
    return clock() - started


class Trainee:
    """A training of a case whose steps are taken one by one."""

    def __init__(
        self, case: Case, execution: Execution, data: Dataset, *, batch_size: int = 0, every: int = EVERY, lr: float = 0.001
    ) -> None:
        """batch_size: 0 for that of the case. every: steps between the mask updates of SET and RigL."""
        batch_size = batch_size or case.batch_size
        self.split = DeviceSplit(data.train, mean=data.mean, std=data.std)
        self.method = find("sparse.methods", case.method)(density=case.density)
        if case.pattern != "unstructured":
            self.method = replace(self.method, pattern=find("sparse.patterns", case.pattern)())
        if every != EVERY:
            self.method = replace(self.method, schedule=replace(self.method.schedule, every=every))
        budget = Budget(steps=NUM_STEPS, batch_size=batch_size, evaluate_every=0)
        self.recipe = Recipe(budget=budget, optimizer=SGD(lr=lr))
        self.training = Training.start(
            case.model,
            recipe=self.recipe,
            method=self.method,
            seed=0,
            rows=self.split,
            num_classes=data.num_classes,
            execution=execution,
        )
        self.rows = torch.randperm(len(self.split), generator=torch.Generator().manual_seed(0))[:batch_size]
        self.augment_stream = torch.Generator()
        self.moves = case.method != "static"

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images and labels, gathered and normalised anew."""
        return self.split.batch(self.rows, self.recipe.augment, self.augment_stream)

    def step(self) -> None:
        """Takes one step as `pruneyard.workloads.training.loop` takes it."""
        training = self.training
        images, labels = self.batch()
        training.set_learning_rate()
        due = training.is_due()
        loss, corrected = training.differentiate(images, labels, rule=PLAIN)
        training.record_loss(loss, num_rows=len(labels), grows=due and self.method.grows_by_gradient)
        new_state = training.updated_masks() if due else None
        training.correct_gradients(corrected)
        if new_state is not None:
            training.apply_masks(new_state)
        if not (due and self.method.replaces_step):
            training.optimizer.step()
        training.step += 1

    def seconds_per_step(self, steps: int, clock: Callable[[], float]) -> float:
        """Returns the median of some steps between updates; with an update's share, unless masks never move."""
        self.training.step = 1
        spent = statistics.median(seconds(self.step, clock) for _ in range(steps))
        if self.moves:
            self.training.step = EVERY
            spent = ((EVERY - 1) * spent + seconds(self.step, clock)) / EVERY
        self.training.losses.take()
        return spent


def clock_of(threads: int) -> Callable[[], float]:
    """Returns the clock of CPU time for one thread, of wall time for several."""
    return time.process_time if threads == 1 else time.perf_counter


def measure(case: Case, *, threads: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step of every execution, one number for each round."""
    torch.set_num_threads(threads)
    data, clock = case.images(), clock_of(threads)
    trainees = {execution: Trainee(case, execution, data) for execution in EXECUTIONS}
    times: dict[str, list[float]] = {execution: [] for execution in EXECUTIONS}
    for trainee in trainees.values():
        trainee.seconds_per_step(2, clock)  # warms up
    for _ in range(rounds):
        for execution, trainee in trainees.items():
            times[execution].append(trainee.seconds_per_step(steps, clock))
    return times


def grown_mib(case: Case, execution: Execution) -> float:
    """Returns by how many MiB a training grows in four steps and, unless masks never move, two updates."""
    torch.set_num_threads(1)
    data = case.images()
    before = psutil.Process().memory_info().rss
    trainee = Trainee(case, execution, data)
    for _ in range(2):
        trainee.seconds_per_step(2, time.perf_counter)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20


def peaks(case: Case) -> dict[str, float]:
    """Returns `grown_mib` of every execution, each measured in a process of its own."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["__main__"])
    with processes.Pool(1, maxtasksperchild=1) as pool:
        return {execution: pool.apply(grown_mib, (case, execution)) for execution in EXECUTIONS}


def over(times: dict[str, list[float]], of: str) -> float:
    """Returns how many times as fast as masked an execution is: the median of the rounds' ratios."""
    return statistics.median(masked / own for masked, own in zip(times["masked"], times[of], strict=True))


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, str | int | float]]:
    """Yields one row for each case and number of threads, as it is measured."""
    cases = [
        Case(network=network, width=width, method=method, density=density, pattern=arguments.pattern)
        for network in arguments.network
        for width in arguments.width or WIDTHS[network]
        for density in arguments.density
        for method in arguments.method
    ]
    for case in cases:
        memory = peaks(case) if arguments.memory else {}
        for threads in arguments.threads:
            steps = arguments.steps or {"mlp": max(2, 4096 // case.width), "vit": 2, "recommender": 10}[case.network]
            times = measure(case, threads=threads, rounds=arguments.rounds, steps=steps)
            yield {
                "network": case.network,
                "width": case.width,
                "density": case.density,
                "method": case.method if case.pattern == "unstructured" else f"{case.method}, {case.pattern}",
                "threads": threads,
                "masked_ms": 1e3 * statistics.median(times["masked"]),
                "sparse": over(times, "sparse"),
                "auto": over(times, "auto"),
                **{f"{execution}_mib": mib for execution, mib in memory.items()},
            }


def plot(found: pd.DataFrame) -> alt.LayerChart:
    """Draws masked over sparse against density, a line for each width of the first network, and what counted FLOPs promise."""
    first = {key: found[key].iloc[0] for key in ("network", "method", "threads")}
    shown = found[(found[list(first)] == pd.Series(first)).all(axis=1)]
    measured = shown.assign(line="width " + shown["width"].astype(str), times=shown["sparse"])
    densities = sorted(shown["density"].unique())
    promise = pd.DataFrame({"density": densities, "times": [1 / d for d in densities], "line": "promise, 1 / density"})
    level = pd.DataFrame({"density": densities, "times": [1.0] * len(densities), "line": "masked"})
    chart = alt.Chart(pd.concat([measured, promise, level])).encode(
        x=alt.X("density:Q", scale=alt.Scale(type="log", reverse=True, nice=False, padding=12), axis=alt.Axis(values=densities)),
        y=alt.Y(
            "times:Q",
            scale=alt.Scale(type="log", nice=False, padding=12),
            title="times as fast as masked",
            axis=alt.Axis(format="~g"),
        ),
        color=alt.Color("line:N", title=None, sort=None),
        strokeDash=alt.StrokeDash(
            "line:N",
            legend=None,
            scale=alt.Scale(
                domain=["promise, 1 / density", "masked", *measured["line"].unique()],
                range=[[5, 4], [2, 3], *[[1, 0]] * measured["line"].nunique()],
            ),
        ),
    )
    return alt.layer(chart.mark_line(), chart.mark_point(filled=True)).properties(width=420, height=260)


def main(arguments: argparse.Namespace) -> None:
    """Prints a Markdown table row by row, and draws the plot."""
    found = []
    for row in rows(arguments):
        if not found:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        found.append(row)
        print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()) + " |", flush=True)
    if arguments.plot is not None:
        plot(pd.DataFrame(found)).save(arguments.plot)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Step time and memory of execution: sparse and auto relative to masked.")
    parser.add_argument("--network", nargs="+", choices=list(WIDTHS), default=["mlp"])
    parser.add_argument("--width", type=int, nargs="+", help=f"vit: a multiple of 3; by default {WIDTHS}")
    parser.add_argument("--density", type=float, nargs="+", default=[0.2, 0.1, 0.05, 0.02, 0.01, 0.005])
    parser.add_argument("--method", nargs="+", default=["static"], help="any sparse method with a density, such as rigl")
    parser.add_argument("--pattern", default="unstructured", help="of the masks, such as constant_fan_in (SRigL, with rigl)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="per round; by default more for small widths")
    parser.add_argument("--memory", action="store_true", help="also the peak memory of each execution")
    parser.add_argument("--plot", type=Path, help="where to write an SVG, PNG or HTML file")
    main(parser.parse_args())
