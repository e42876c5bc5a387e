"""Counts the jobs of each stage and the runs that they take from other stages and folders, as `pruneyard plan` draws them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pruneyard.orchestrator.artifacts.parents import upstream_runs
from pruneyard.orchestrator.planning.plan import Plan
from pruneyard.orchestrator.spec.job import Job


@dataclass(frozen=True, kw_only=True)
class StageInput:
    """The runs that the jobs of a stage take from one place.

    origin: the name of a stage, or a folder of results.
    fewest, most: the runs that a single job takes from there.
    """

    origin: str
    fewest: int
    most: int


@dataclass(frozen=True, kw_only=True)
class StageNode:
    """A stage of a chain with the number of its jobs by status; `counts` leaves out what no job has.

    num_candidates: the most jobs that a stage may get whose jobs are not known yet. waits_for: why they are not known.
    """

    name: str
    kind: str
    num_jobs: int
    counts: Mapping[str, int]
    inputs: Sequence[StageInput]
    num_candidates: int
    waits_for: str


def stage_graph(plan: Plan) -> list[StageNode]:
    """Returns the stages of a chain in their order; an empty list for a spec without stages."""
    stages = [stage for stage in plan.spec.stages if stage.name is not None]
    # A job that several stages ask for belongs to the first of them.
    jobs = (job for stage in reversed(stages) for job in reversed([*stage.jobs, *stage.candidates]))
    stage_of = {job.key: job.stage for job in jobs}
    return [
        StageNode(
            name=str(stage.name),
            kind=stage.header.kind,
            num_jobs=len(stage.jobs),
            counts={name: count for name, count in plan.counts(stage.jobs).items() if count},
            inputs=_inputs(stage.candidates if stage.waits_for else stage.jobs, stage_of),
            num_candidates=len(stage.candidates) if stage.waits_for else 0,
            waits_for=stage.waits_for,
        )
        for stage in stages
    ]


def _inputs(jobs: Sequence[Job], stage_of: Mapping[str, str | None]) -> list[StageInput]:
    numbers: dict[str, list[int]] = {}
    for job in jobs:
        if job.parents:
            runs = dict.fromkeys(upstream_runs(job.workload))  # a job may name a run twice
            counts = Counter(folder or stage_of.get(run) or "" for folder, run in runs)
            for origin, count in counts.items():
                numbers.setdefault(origin, []).append(count)
    return [StageInput(origin=origin, fewest=min(found), most=max(found)) for origin, found in numbers.items()]
