"""`pruneyard explain`: explains why a job runs again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from pruneyard.orchestrator.commands.spec_changes import spec_changes
from pruneyard.orchestrator.driver.run import default_folder
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.planning.compatibility import nearest_run, recorded_identities
from pruneyard.orchestrator.planning.plan import Plan, make_plan
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

SHORTEST_KEY = 8  # as the live table shows them


def execute(subject: str, out: Location | None, sets: tuple[str, ...], axes: tuple[str, ...]) -> int:
    """Show what is known about RUN_KEY (in --out DIR), or why each job of SPEC would run or not, field by field."""
    if out is not None and (row := _row(out, subject)) is not None:
        for line in _describe_run(row):
            click.echo(line)
        return 0
    if _looks_like_key(subject):
        where = f"in {out}" if out is not None else "without --out DIR"
        raise UsageError(f"{subject}: no run of that key is known {where}")
    spec = load_spec(subject, **spec_changes(sets, axes))
    plan = make_plan(spec, RunFolder(out or default_folder(spec)))
    for job in plan.spec.jobs:
        for line in _describe_job(job, plan):
            click.echo(line)
    return 0


def _looks_like_key(text: str) -> bool:
    return len(text) == 16 and all(letter in "0123456789abcdef" for letter in text)


def _row(folder: Location, key: str) -> dict[str, Any] | None:
    """Returns the run with this key, or the only one whose key starts with it; None if there is none."""
    rows = Store(RunFolder(folder)).runs().to_pylist()
    found = [row for row in rows if row["run_key"].startswith(key)] if len(key) >= SHORTEST_KEY else []
    return found[0] if len(found) == 1 else None


def _describe_run(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['run_key']}: {row['status']}, attempt {row['attempt']} of study {row['study']}"
    yield f"  ended {row['ended_at']:%Y-%m-%d %H:%M:%S} UTC on {row['device']}, pruneyard {row['code_version']}"
    for line in json.dumps(json.loads(row["spec_json"]), indent=2).splitlines():
        yield f"  {line}"
    if row["error"]:
        yield from (f"  {line}" for line in row["error"].rstrip().splitlines())


def _describe_job(job: Job, plan: Plan) -> Iterator[str]:
    status = plan.status(job)
    head = f"{job.key} {job.label}:"
    if status is Status.COMPLETED:
        yield f"{head} finished; it will not run again"
    elif status is not None:
        row = _row(plan.folder.path, job.key)
        last = str(row["error"]).strip().splitlines()[-1] if row and row["error"] else "its checkpoint is kept"
        yield f"{head} runs again because attempt {plan.statuses[job.key][1]} ended {status.value}: {last}"
    else:
        yield f"{head} runs because no run of this key is in {plan.folder.path}"
        yield from (f"  {line}" for line in _nearest(job, plan))


def _nearest(job: Job, plan: Plan) -> Iterator[str]:
    """Yields the fields in which the most similar recorded run differs from the job."""
    if nearest := nearest_run(recorded_identities(plan.folder), [job]):
        yield f"the most similar run there, {nearest.run_key}, differs in:"
        yield from nearest.lines()
