"""Wall time per trivial trial: Pruneyard with durable records, plain Ray Tune with and without actor reuse, and a shell loop.

A trivial trial trains a tiny network for one step on digits and evaluates it. The first three schedule the same trials, each on a
cluster started for it, before the clock starts; only ours writes records, predictions, network and checkpoint. The loop starts a
process for each, one after the other, with our records. The times include the start of the processes; those of
`from_start_to_end` are from the start of our first trial to the end of the last, and from Tune's first result to its last (in
whole seconds). `after_start` are milliseconds per trial from the end of trial 20 to that of the last one: wall time, and
processor time of this process and all that it started.

Run: python tests/benchmarks/orchestration.py [TRIALS] [--with-reuse], with the second to leave out the two slow ones
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import tune

from pruneyard.cluster.session import Session, session
from pruneyard.orchestrator.coordination.stop_request import StopRequest
from pruneyard.orchestrator.execution.capacity import max_concurrent_trials
from pruneyard.orchestrator.execution.job_source import FixedJobs
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.planning.preflight import load_data
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.ray_backend.study import run_study
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.workload import Context

TRIALS_WITHOUT_REUSE = 20  # a second each
TIMED_ALONE = 5
STARTED_AFTER = 20  # trials: by then all processes have started


class Spent:
    """Wall time and processor time between the ends of two trials, in milliseconds per trial."""

    def __init__(self, num_trials: int) -> None:
        self._num_trials, self._num_ended = num_trials, 0
        self.per_trial: dict[str, float] = {}

    def note_end(self) -> None:
        """Counts a trial that has ended; takes the times at one of the first and at the last one."""
        self._num_ended += 1
        if self._num_ended == STARTED_AFTER:
            self._first = time.perf_counter(), self._used()
        if self._num_ended == self._num_trials > STARTED_AFTER:
            (began, before), (ended, after) = self._first, (time.perf_counter(), self._used())
            used = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
            per = 1e3 / (self._num_trials - STARTED_AFTER)
            self.per_trial = {"wall_ms": round(per * (ended - began), 1), "cpu_ms": round(per * used, 1)}

    @staticmethod
    def _used() -> dict[int, float]:
        """Returns the processor seconds of this process and all that it started, by process id."""
        own = psutil.Process()
        return {process.pid: sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True))}


class CountingMonitor(Monitor):
    """Tells `spent` of every end."""

    spent: Spent

    def end(self, key: str, status: Status, error: str | None = None) -> None:
        """Marks a trial as ended."""
        super().end(key, status, error)
        self.spent.note_end()


class CountingCallback(tune.Callback):
    """Counts the end of a trial of plain Tune, as the monitor does for ours."""

    def __init__(self, spent: Spent) -> None:
        self.spent = spent

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Counts the trial that has ended."""
        self.spent.note_end()


def trivial_table(num_trials: int) -> dict[str, Any]:
    """Returns a spec of one job per seed."""
    return {
        "name": "trivial",
        "kind": "sparse",
        "data": "digits",
        "model": {"name": "mlp", "width": 8, "depth": 1},
        "method": {"name": "static", "density": 0.5},
        "budget": {"steps": 1, "evaluate_every": 0},
        "seeds": num_trials,
    }


def trivial_spec(num_trials: int) -> Spec:
    """Returns the same spec, read."""
    return load_spec(trivial_table(num_trials))


def run_whole(spec: Spec, joined: Session, folder: RunFolder, monitor: Monitor) -> tuple[float, float]:
    """Returns when the study began and ended, by `time.perf_counter`."""
    attempts = make_plan(spec, folder).attempts()
    monitor.expect(attempts)
    started = time.perf_counter()
    run_study(
        attempts,
        study=spec.name,
        folder=folder,
        shapes=[spec.stages[0].header.resources],
        data=load_data([planned.job for planned in attempts], spec),
        session=joined,
        monitor=monitor,
        stop=StopRequest(folder.path / ".stop"),
        show=lambda: None,
        fail_fast=False,
        jobs=FixedJobs(),
        shared={},
    )
    ended = time.perf_counter()
    statuses = Store(folder).statuses()
    assert len(statuses) == len(attempts)
    assert {status for status, _ in statuses.values()} == {Status.COMPLETED}
    return started, ended


def run_ours(spec: Spec, joined: Session, folder: RunFolder, spent: Spent | None = None) -> float:
    """Returns the seconds per trial, from planned attempts to records on disk."""
    num_trials = len(spec.jobs)
    monitor = CountingMonitor(total=num_trials, num_already_done=0)
    monitor.spent = spent or Spent(num_trials)
    started, ended = run_whole(spec, joined, folder, monitor)
    return (ended - started) / num_trials


def seconds_after_start(folder: RunFolder) -> float:
    """Returns the seconds per trial of ours, without the start of the processes."""
    runs = Store(folder).runs().to_pandas()
    return float((runs["ended_at"].max() - runs["started_at"].min()).total_seconds()) / len(runs)


def one_after_the_other(table: Mapping[str, Any], scratch: Path) -> float:
    """Seconds per trial of processes as a loop in a shell starts them, of which some are timed."""
    spec = scratch / "alone.json"
    started = time.perf_counter()
    for seed in range(TIMED_ALONE):
        spec.write_text(json.dumps({**table, "seeds": [seed]}))  # JSON is YAML
        words = ["run", str(spec), "--local", "--out", str(scratch / f"alone-{seed}")]
        subprocess.run(
            [sys.executable, "-c", "from pruneyard.orchestrator.cli import main; main()", *words], check=True, capture_output=True
        )
    return (time.perf_counter() - started) / TIMED_ALONE


def run_plain(
    spec: Spec, joined: Session, scratch: Path, *, reuse: bool, spans: dict[str, float] | None = None, spent: Spent | None = None
) -> float:
    """Seconds per trial of a function trainable that does the same training and reports one number.

    spans: is given the seconds per trial without the start of the processes.
    """
    attempts = make_plan(spec, RunFolder(scratch)).attempts()
    data = {"digits": ray.put(attempts[0].job.workload.data.load())}

    def trial(config: dict[str, Any], attempts: list[PlannedAttempt], data: dict[str, ray.ObjectRef]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            context = Context(checkpoints=NoCheckpoints(Path(folder)), load_data=lambda _: ray.get(data["digits"]))
            for progress in attempts[config["index"]].job.workload.run(context):
                metrics = {f"{m.split}/{m.name}": m.value for m in progress.metrics}
        tune.report(metrics)

    callbacks: list[tune.Callback] = [] if spent is None else [CountingCallback(spent)]
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, attempts=attempts, data=data), {"cpu": 1}),
        param_space={"index": tune.grid_search(list(range(len(attempts))))},
        tune_config=tune.TuneConfig(
            reuse_actors=reuse,
            max_concurrent_trials=max_concurrent_trials(spec.stages[0].header.resources, joined.nodes),
        ),
        run_config=tune.RunConfig(storage_path=str(scratch), name=f"plain-{reuse}", verbose=0, callbacks=callbacks),
    )
    started = time.perf_counter()
    results = tuner.fit()
    elapsed = time.perf_counter() - started
    assert results.num_errors == 0
    times = [result.metrics["timestamp"] for result in results if result.metrics]
    if spans is not None:
        spans["tune_with_reuse" if reuse else "tune_without_reuse"] = (max(times) - min(times)) / len(attempts)
    return elapsed / len(attempts)


class NoCheckpoints(CheckpointFolder):
    """Plain Tune keeps none here."""

    def save(self, checkpoint: object) -> None:
        """Does nothing."""


def main(num_trials: int, *, with_reuse: bool) -> None:
    """Prints seconds per trial and the ratios."""
    spent = {way: Spent(num_trials) for way in ("ours", "tune_with_reuse")}
    timed: dict[str, Callable[[Session], float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        spec, few = trivial_spec(num_trials), trivial_spec(TRIALS_WITHOUT_REUSE)
        spans: dict[str, float] = {}
        with session() as joined:  # so that the imports of the driver count for none
            run_ours(trivial_spec(4), joined, RunFolder(scratch / "warm"))
        timed["ours"] = lambda joined: run_ours(spec, joined, RunFolder(scratch / "ours"), spent["ours"])
        timed["tune_with_reuse"] = lambda joined: run_plain(
            spec, joined, scratch / "reuse", reuse=True, spans=spans, spent=spent["tune_with_reuse"]
        )
        if not with_reuse:
            timed["tune_without_reuse"] = lambda joined: run_plain(few, joined, scratch / "fresh", reuse=False, spans=spans)
            timed["one_after_the_other"] = lambda _: one_after_the_other(trivial_table(1), scratch)
        seconds = {}
        for name, measure in timed.items():
            with session() as joined:
                seconds[name] = round(measure(joined), 4)
        spans["ours"] = seconds_after_start(RunFolder(scratch / "ours"))
    ratios = {f"{name}/ours": round(value / seconds["ours"], 2) for name, value in seconds.items() if name != "ours"}
    rounded = {name: round(value, 4) for name, value in spans.items()}
    found = {"trials": num_trials, "seconds_per_trial": seconds, "ratios": ratios, "from_start_to_end": rounded}
    found["after_start"] = {way: each.per_trial for way, each in spent.items()}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="?", type=int, default=200)
    parser.add_argument("--with-reuse", action="store_true", help="compare with plain Tune with actor reuse only")
    given = parser.parse_args()
    main(given.trials, with_reuse=given.with_reuse)
