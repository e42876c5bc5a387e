"""Finds where scheduling breaks first at 1,000 GPUs and 100,000 trials: a discrete-event simulation with measured overheads.

Every GPU runs trial after trial. A trial starts when the driver has handled its start, computes up to its next evaluation,
writes, reports, and resumes when the driver has handled the report: so the driver is one server with one queue, and the
storage's metadata another, with as many concurrent operations as it allows. Overheads are those of `--measure` on this machine;
the driver's grow with the trials it has seen, by the slope that was measured. What is not measured is an assumption, and the
output says so. Run: python tests/benchmarks/scheduling_simulation.py PLOT.svg (about 5 minutes), or with --measure (longer).
"""

import heapq
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import altair as alt
import pandas as pd

GPUS = 1_000
TRIALS = 100_000
EVALUATIONS = 10
STORES, ENDED = -1, 0  # in the place of evaluations left: a trial has computed all, and has left its files
MINUTES = (0.25, 0.5, 1, 2, 5, 10, 20, 60)


@dataclass(frozen=True, kw_only=True)
class Overheads:
    """Seconds, unless said otherwise.

    driver_trial: of the driver for the start and the end of a trial; driver_growth: more of it per trial seen before.
    driver_report: of the driver for one report in between.
    decision: of the scheduler, with its line on disk; 0 without a scheduler.
    worker: of a GPU's process between two trials, in which nothing is computed.
    files: written per trial. metadata_rate: creations and renames a second that a shared folder takes: assumed.
    """

    driver_trial: float
    driver_growth: float
    driver_report: float
    decision: float = 0.0
    worker: float
    files: int
    metadata_rate: float = 2_000.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """Shares of the whole time, and what waited. A population ends with its longest trials, so no share reaches 1."""

    gpus_at_work: float
    driver_at_work: float
    storage_at_work: float
    longest_queue: int
    hours: float


class Server:
    """Serves one request after the other, in order of arrival."""

    def __init__(self) -> None:
        self.free_at, self.worked = 0.0, 0.0
        self.waiting: list[float] = []  # when what is in the queue will be done
        self.longest = 0

    def done_at(self, now: float, seconds: float) -> float:
        """Returns when an event that arrives now has been handled."""
        while self.waiting and self.waiting[0] <= now:
            heapq.heappop(self.waiting)
        self.free_at = max(self.free_at, now) + seconds
        self.worked += seconds
        heapq.heappush(self.waiting, self.free_at)
        self.longest = max(self.longest, len(self.waiting))
        return self.free_at


def simulate(
    costs: Overheads,
    *,
    minutes: float,
    gpus: int = GPUS,
    trials: int = TRIALS,
    reports: int = EVALUATIONS,
    drivers: int = 1,
    seed: int = 0,
) -> Found:
    """Simulates a population of trials whose lengths are log-normal with this mean, a factor of 2 at one standard deviation.

    drivers: as many studies share GPUs, trials and nothing else, the storage apart.
    """
    generator = random.Random(seed)
    sigma = 0.693
    server = [Server() for _ in range(drivers)]
    storage = Server()
    seen = [0] * drivers
    computed, end = 0.0, 0.0
    events: list[tuple[float, int, int, float]] = []  # when a GPU wants its driver, which, evaluations left, seconds between
    left = trials
    for gpu in range(gpus):
        heapq.heappush(events, (0.0, gpu, ENDED, 0.0))
    while events:
        now, gpu, evaluations, between = heapq.heappop(events)
        driver = gpu % drivers
        if evaluations == STORES:
            heapq.heappush(events, (storage.done_at(now, costs.files / costs.metadata_rate), gpu, ENDED, 0.0))
            continue
        if evaluations == ENDED:
            if left == 0:
                end = max(end, now)
                continue
            left -= 1
            length = 60 * minutes * generator.lognormvariate(-sigma * sigma / 2, sigma)
            evaluations, between = reports, length / reports
            work = costs.driver_trial + costs.driver_growth * seen[driver]
            seen[driver] += 1
            started = server[driver].done_at(now, work) + costs.worker
        else:
            started = server[driver].done_at(now, costs.driver_report + costs.decision)
        evaluations -= 1
        computed += between
        heapq.heappush(events, (started + between, gpu, evaluations or STORES, between))
    return Found(
        gpus_at_work=computed / (gpus * end),
        driver_at_work=max(one.worked for one in server) / end,
        storage_at_work=storage.worked / end,
        longest_queue=max(one.longest for one in server),
        hours=end / 3600,
    )


def measured() -> Overheads:
    """On this machine, by the processor time of the driver: of trivial trials, few and many, with few evaluations and many."""
    from orchestration import run_ours, trivial_spec

    from pruneyard.cluster.session import session
    from pruneyard.orchestrator.early_stopping.asha_median import load_early_stopper
    from pruneyard.orchestrator.spec.load import load_spec
    from pruneyard.orchestrator.spec.scheduler import Scheduler
    from pruneyard.reports.layout import RunFolder

    def driver_seconds(spec: object, joined: object, folder: Path) -> tuple[float, float]:
        before = time.process_time()
        wall = run_ours(spec, joined, RunFolder(folder))  # type: ignore[arg-type]
        return (time.process_time() - before) / len(spec.jobs), wall  # type: ignore[attr-defined]

    few, many, evaluations = 200, 1_000, 20
    with tempfile.TemporaryDirectory() as folder, session() as joined:
        scratch = Path(folder)
        run_ours(trivial_spec(4), joined, RunFolder(scratch / "warm"))
        of_few, _ = driver_seconds(trivial_spec(few), joined, scratch / "few")
        of_many, wall = driver_seconds(trivial_spec(many), joined, scratch / "many")
        files = sum(1 for path in (scratch / "many" / "artifacts").rglob("*") if path.is_file()) / many + 3
        tables = dict(trivial_spec(few).tables)
        often = load_spec({**tables, "budget": {"steps": evaluations, "batch_size": 2000, "evaluate_every": 1}})
        of_often, _ = driver_seconds(often, joined, scratch / "often")
        jobs = often.jobs
        scheduler = Scheduler(name="asha", metric="val/accuracy", mode="max")
        decides = load_early_stopper(scheduler, jobs, RunFolder(scratch / "decisions"))
        started = time.perf_counter()
        for place, job in enumerate(jobs):
            decides.on_result(job.key, share=0.1, value=place % 17 / 17)
        deciding = (time.perf_counter() - started) / len(jobs)
    growth = max(0.0, (of_many - of_few) / ((many - few) / 2))
    return Overheads(
        driver_trial=max(of_few - growth * few / 2, 0.0),
        driver_growth=growth,
        driver_report=max(0.0, (of_often - of_few) / (evaluations - 1)),
        decision=deciding,
        worker=max(0.0, wall * joined.cpus - of_many),
        files=round(files),
    )


# By --measure on two cores with other work beside it; from 200 to 1,000 trials the driver's time did not grow.
MEASURED = Overheads(
    driver_trial=0.0129, driver_growth=0.0, driver_report=0.0019, decision=0.0005, worker=0.066, files=10
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A study that differs from one without a scheduler."""

    name: str
    overheads: Overheads
    drivers: int = 1
    reports: int = EVALUATIONS


def scenarios(costs: Overheads) -> list[Scenario]:
    """Returns the scenarios that are compared."""
    plain = replace(costs, decision=0.0)
    return [
        Scenario(name="one study", overheads=plain),
        Scenario(name="the same under asha", overheads=costs),
        Scenario(name="the same, 50 evaluations a trial", overheads=plain, reports=50),
        Scenario(name="ten studies", overheads=plain, drivers=10),
    ]


def main(plot: str | None, costs: Overheads) -> None:
    """Prints a row for each scenario and length of trial, and draws how busy the GPUs are."""
    rows = []
    nothing = Overheads(driver_trial=0, driver_growth=0, driver_report=0, worker=0, files=0)
    ideal = {minutes: simulate(nothing, minutes=minutes).hours for minutes in MINUTES}
    print(json.dumps({"overheads": asdict(costs), "gpus": GPUS, "trials": TRIALS, "evaluations": EVALUATIONS}))
    for one in scenarios(costs):
        for minutes in MINUTES:
            found = simulate(one.overheads, minutes=minutes, drivers=one.drivers, reports=one.reports)
            speed = ideal[minutes] / found.hours
            rows.append({"scenario": one.name, "minutes": minutes, "speed": speed, **asdict(found)})
            print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in rows[-1].items()}), flush=True)
    if plot is not None:
        chart = alt.Chart(pd.DataFrame(rows)).mark_line(point=True).encode(
            x=alt.X("minutes:Q", scale=alt.Scale(type="log"), title="mean length of a trial, minutes"),
            y=alt.Y("speed:Q", scale=alt.Scale(domain=[0, 1]), title="speed, without overheads = 1"),
            color=alt.Color("scenario:N", title=f"{TRIALS:,} trials on {GPUS:,} GPUs"),
        )
        chart.properties(width=420, height=260).save(plot)


if __name__ == "__main__":
    arguments = [text for text in sys.argv[1:] if text != "--measure"]
    main(arguments[0] if arguments else None, measured() if "--measure" in sys.argv else MEASURED)
