"""Calibrations of stored outputs per second, from planned attempts to records and artifacts on disk, against one job at a time.

Networks are trained on generated images first, then every job fits a temperature on the stored outputs of one of them and
evaluates it by all metrics. The two ways take turns in this process; with --ray the same jobs also run on a Ray cluster of this
machine, all of its cores at once. Beside wall time stands processor time, which other work on the machine disturbs less.
Run: python tests/benchmarks/short_jobs.py [--rows 10000] [--ray]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from pruneyard import run
from pruneyard.cluster.session import session
from pruneyard.orchestrator.artifacts.parents import locate_upstream
from pruneyard.orchestrator.coordination.stop_request import StopRequest
from pruneyard.orchestrator.execution.job_source import FixedJobs
from pruneyard.orchestrator.local_backend.study import run_local
from pruneyard.orchestrator.planning.attempt import PlannedAttempt, order_by_parents
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.ray_backend.study import run_study
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

CLASSES = 10


def train(folder: Path, *, num_rows: int, num_networks: int) -> None:
    """Trains small networks with `num_rows` test rows each, and a fifth as many to fit on."""
    data = {"name": "oracle", "num_classes": CLASSES, "dimensions": 16, "num_train": 2 * num_rows, "num_test": num_rows}
    table: dict[str, Any] = {
        "name": "networks",
        "kind": "sparse",
        "data": data,
        "model": {"name": "mlp", "width": 32},
        "method": "dense",
        "budget": {"epochs": 2, "batch_size": 100, "evaluate_every": 0},
        "seeds": num_networks,
    }
    assert run(table, folder, local=True).exit_code == 0


def attempts_of(networks: Path, out: Path, **axes: Sequence[Any]) -> list[PlannedAttempt]:
    """Returns an attempt for every network and value of the axes, ready to be run."""
    table = {"name": "calibrations", "kind": "calibrate", "input": {"from": str(networks)}, "grid": axes}
    folder = RunFolder(out)
    attempts = make_plan(load_spec(table), folder).attempts()
    ready = [
        replace(planned, job=replace(planned.job, workload=locate_upstream(planned.job.workload, folder))) for planned in attempts
    ]
    return order_by_parents(ready)


def seconds_per_job(attempts: Sequence[PlannedAttempt], out: Path, way: Callable[..., object]) -> tuple[float, float]:
    """Returns the wall time of one way to run the jobs, and the processor time of this process."""
    monitor = Monitor(total=len(attempts), num_already_done=0)
    monitor.expect(list(attempts))
    started, computed = time.perf_counter(), time.process_time()
    way(
        attempts,
        study="calibrations",
        folder=RunFolder(out),
        shapes=[Resources()],
        data={},
        monitor=monitor,
        stop=StopRequest(out / ".stop"),
        show=lambda: None,
        fail_fast=False,
        jobs=FixedJobs(),
    )
    elapsed, computed = time.perf_counter() - started, time.process_time() - computed
    statuses = Store(RunFolder(out)).statuses()
    assert [statuses[planned.job.key][0] for planned in attempts] == [Status.COMPLETED] * len(attempts)
    return elapsed / len(attempts), computed / len(attempts)


def one_by_one(attempts: Sequence[PlannedAttempt], **given: Any) -> None:
    """Runs the jobs and writes each as it ends."""
    with patch("pruneyard.orchestrator.artifacts.write_buffer.MAX_BUFFERED_S", 0.0):
        run_local(attempts, **given)


def main() -> None:
    """Prints jobs per second of every way and how many times those of the first are of the others; medians of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--each", type=int, default=10, help="temperature jobs on each network, told apart by their bins")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        networks = Path(scratch) / "networks"
        train(networks, num_rows=given.rows, num_networks=given.networks)
        ways: dict[str, Callable[..., object]] = {"together": run_local, "one by one": one_by_one}
        if given.ray:
            ways["on ray"] = partial(run_study, session=stack.enter_context(session()), shared={})
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for number in range(given.rounds + 1):
            for way, run_attempts in ways.items():
                out = Path(scratch) / f"{way}-{number}"
                out.mkdir()
                attempts = attempts_of(networks, out, method=["temperature"], num_bins=list(range(10, 10 + given.each)))
                found[way].append(seconds_per_job(attempts, out, run_attempts))
        wall = {way: statistics.median(wall_s for wall_s, _ in each[1:]) for way, each in found.items()}  # the first warms up
        used = {way: statistics.median(used_s for _, used_s in each[1:]) for way, each in found.items() if way != "on ray"}
        told = {
            "rows": given.rows,
            "per_second": {way: round(1 / each, 1) for way, each in wall.items()},
            "per_processor_second": {way: round(1 / each, 1) for way, each in used.items()},
            "times_as_long_as_together": {way: round(each / wall["together"], 2) for way, each in wall.items()},
        }
        print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
