"""Makespan of a chain whose stages have uneven jobs: by dependency, and with a barrier after each stage; and the own overhead.

Each job of the first stage is continued by one of the second; both only sleep, the first long where the second is short. Both
ways run the same jobs on the same Ray session. With `--large` it times planning, cache look-up and the pool's own work for
10,000 jobs instead, which needs no Ray.

    python tests/benchmarks/chain_makespan.py [--rounds 3] [--large]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pruneyard
from pruneyard.cluster.session import session
from pruneyard.orchestrator.artifacts.run_cache import RunCache
from pruneyard.orchestrator.coordination.stop_request import stop_request
from pruneyard.orchestrator.driver.cached_runs import Caches, cached_jobs
from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.driver.job_pool import JobPool
from pruneyard.orchestrator.driver.run import NoDisplay
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.ray_backend.study import run_study
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

FIRST = (8.0, 0.2, 0.2, 0.2, 0.2)  # seconds of the jobs of the first stage, by seed
SECOND = (0.2, 2.0, 2.0, 2.0, 2.0)  # and of those of the second that continue them


def work(seed: int, context: pruneyard.FunctionContext) -> None:
    """Sleeps the first or the second part of a training."""
    state = context.restore()
    time.sleep((FIRST if state is None else SECOND)[seed % len(FIRST)])
    step = 1 if state is None else 2
    context.checkpoint({"step": step}, step=step)
    context.report(step=step, accuracy=0.5)


def chain(num_jobs: int) -> Spec:
    """Returns the chain of two stages."""
    job = {"kind": "function", "function": f"{Path(__file__).resolve()}:work", "steps": 2}
    first = {**job, "seeds": num_jobs, "segment": {"until": 0.5}}
    return load_spec(
        {
            "name": "chain",
            "stages": {"first": first, "second": {**job, "segment": {"from": "first", "until": 1.0}}},
        }
    )


def seconds_of(
    spec: Spec, folder: Path, groups: Sequence[Sequence[int]], run_attempts: Callable[..., None]
) -> float:
    """Returns the seconds from the start of the first job to the end of the last.

    groups: the stages that run together, one group after the other, each with a pool of its own, so with new processes. The time
    in which the very first processes start is the same in both ways and is left out.
    """
    plan = make_plan(spec, RunFolder(folder))
    (folder / "out").mkdir(parents=True)
    with stop_request(folder) as stop:
        monitor = Monitor(total=len(spec.jobs), num_already_done=0)
        study_run = StudyRun(
            plan=plan, monitor=monitor, stop=stop, display=NoDisplay(), fail_fast=False, data={}
        )
        for group in groups:
            JobPool([spec.stages[number] for number in group], study_run, only=None).run_all(run_attempts)
    assert study_run.plan.counts()["completed"] == len(spec.jobs)
    runs = Store(RunFolder(folder)).runs().to_pandas()
    return float((runs["ended_at"].max() - runs["started_at"].min()).total_seconds())


def makespans(num_rounds: int) -> Mapping[str, Any]:
    """Returns the medians of both ways, which take turns, and the least time that two cores need."""
    spec, ways = chain(len(FIRST)), {"by_dependency": [[0, 1]], "barrier": [[0], [1]]}
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as scratch, session() as joined:
        run_attempts = partial(run_study, session=joined, shared={})
        slots = sum(int(cpus) for cpus, _ in joined.nodes)
        for number in range(num_rounds):
            for way, groups in ways.items():
                found[way].append(seconds_of(spec, Path(scratch) / f"{way}-{number}", groups, run_attempts))
    medians = {way: round(statistics.median(each), 2) for way, each in found.items()}
    longest = max(first + second for first, second in zip(FIRST, SECOND, strict=True))
    least = max((sum(FIRST) + sum(SECOND)) / slots, longest)
    least_with_barrier = sum(max(sum(stage) / slots, max(stage)) for stage in (FIRST, SECOND))
    overhead = (medians["by_dependency"] - least) / len(spec.jobs)
    return {
        "seconds": medians,
        "all": {way: [round(one, 2) for one in each] for way, each in found.items()},
        "barrier/by_dependency": round(medians["barrier"] / medians["by_dependency"], 2),
        "least_possible": {"by_dependency": round(least, 2), "barrier": round(least_with_barrier, 2)},
        "seconds_above_it_per_job": round(overhead, 3),
    }


def large(num_jobs: int) -> Mapping[str, float]:
    """Returns the seconds of the driver's own work for a chain of this many jobs."""
    clock = time.process_time  # of this process alone, whatever else the machine does
    table = {"kind": "sparse", "data": "digits", "model": "mlp", "method": "dense", "budget": {"steps": 1}}
    half = num_jobs // 2
    stages = {
        "train": {**table, "seeds": half},
        "trust": {"kind": "calibrate", "input": {"from": "train"}, "method": "none"},
    }
    started = clock()
    spec = load_spec({"name": "large", "stages": stages})
    loaded = clock()
    with tempfile.TemporaryDirectory() as scratch:
        folder, cache = RunFolder(Path(scratch) / "out"), Path(scratch) / "cache"
        plan = make_plan(spec, folder)
        attempts = plan.attempts()
        planned = clock()
        for job in spec.jobs:
            RunCache(cache).folder.artifact(job.key).mkdir(parents=True)
        filled = clock()
        assert len(cached_jobs(plan, Caches.of(None, [cache]))) == len(spec.jobs)
        looked_up = clock()
        per_job = pool_seconds(chain(half), RunFolder(Path(scratch) / "pool")) / num_jobs
    return {
        "jobs": len(attempts),
        "validate_s": round(loaded - started, 2),
        "plan_s": round(planned - loaded, 2),
        "cache_look_up_s": round(looked_up - filled, 2),
        "pool_ms_per_job": round(1000 * per_job, 3),
    }


def pool_seconds(spec: Spec, folder: RunFolder) -> float:
    """Returns the seconds that the pool takes to hand over all jobs, if every run completes at once and nothing is written."""
    num_left = len(spec.jobs)

    def complete_all(attempts: Sequence[PlannedAttempt], *, jobs: JobPool, **_: Any) -> None:
        nonlocal num_left
        queue = list(attempts)
        while queue:
            key = queue.pop().job.key
            num_left -= 1
            queue += jobs.after(Report(run_key=key, status=Status.COMPLETED))

    folder.path.mkdir()
    with stop_request(folder.path) as stop:
        monitor = Monitor(total=num_left, num_already_done=0)
        study_run = StudyRun(
            plan=make_plan(spec, folder),
            monitor=monitor,
            stop=stop,
            display=NoDisplay(),
            fail_fast=False,
            data={},
        )
        started = time.process_time()
        JobPool(spec.stages, study_run, only=None).run_all(complete_all)
        elapsed = time.process_time() - started
    assert num_left == 0
    return elapsed


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    given = parser.parse_args()
    print(json.dumps(large(10_000) if given.large else makespans(given.rounds), indent=1))


if __name__ == "__main__":
    main()
