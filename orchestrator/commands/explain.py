"""`pruneyard explain`: explains why a job runs again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from pruneyard.orchestrator.artifacts.run_keys import full_run_key, looks_like_key
from pruneyard.orchestrator.commands.spec_changes import spec_changes
from pruneyard.orchestrator.driver.run import default_folder
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.planning.compatibility import nearest_run, recorded_identities
from pruneyard.orchestrator.planning.data_changes import DataChange, changes
from pruneyard.orchestrator.planning.plan import Plan, make_plan
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.workloads.data.fingerprints import Fingerprints
from pruneyard.workloads.user_code.error_line import error_line


def execute(subject: str, out: Location | None, sets: tuple[str, ...], axes: tuple[str, ...], plugins: tuple[str, ...]) -> int:
    """Prints what is known about a run, or why each job of a spec would run or not, field by field."""
    if looks_like_key(subject):
        if out is None:
            raise UsageError(f"{subject}: no run of that key is known without --out DIR")
        folder = RunFolder(out)
        for line in _describe_run(_row(folder, full_run_key(folder, subject, option="explain"))):
            click.echo(line)
        return 0
    spec = load_spec(subject, **spec_changes(sets, axes, plugins))
    plan = make_plan(spec, RunFolder(out or default_folder(spec)))
    new = [job for job in plan.spec.jobs if plan.status(job) is None]
    changed = {key: change for change in changes(plan, Fingerprints({})) for key in change.run_keys}
    for job in plan.spec.jobs:
        if plan.status(job) is not None:
            click.echo(_describe_job(job, plan, changed.get(job.key)))
    for line in _describe_new(new, plan.folder):
        click.echo(line)
    return 0


def _row(folder: RunFolder, key: str) -> dict[str, Any]:
    """Returns the row of a run that is in the folder."""
    (row,) = (row for row in Store(folder).runs().to_pylist() if row["run_key"] == key)
    return dict(row)


def _describe_run(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['run_key']}: {row['status']}, attempt {row['attempt']} of study {row['study']}"
    yield f"  ended {row['ended_at']:%Y-%m-%d %H:%M:%S} UTC on {row['device']}, pruneyard {row['code_version']}"
    for line in json.dumps(json.loads(row["spec_json"]), indent=2).splitlines():
        yield f"  {line}"
    if row["error"]:
        yield from (f"  {line}" for line in row["error"].rstrip().splitlines())


def _describe_job(job: Job, plan: Plan, change: DataChange | None) -> str:
    """Returns a line about a job that has run, or two if its data has changed since."""
    status = plan.status(job)
    head = f"{job.key} {job.label}:"
    if change is not None:
        on_other = f"{head} ended {status and status.value} on other data; it is neither kept nor resumed here"
        then_and_now = f"{change.recorded} then, {change.now} now"
        return f"{on_other}\n  {change.key}: {change.place}: {then_and_now}; restore the data, or give another --out"
    if status is Status.COMPLETED:
        return f"{head} finished; it will not run again"
    row = _row(plan.folder, job.key)
    last = error_line(str(row["error"])) if row["error"] else "its checkpoint is kept"
    return f"{head} runs again because attempt {plan.statuses[job.key][1]} ended {status and status.value}: {last}"


def _describe_new(jobs: Sequence[Job], folder: RunFolder) -> Iterator[str]:
    """Yields the jobs that never ran; below each group, once, the fields in which the most similar recorded runs differ."""
    known = recorded_identities(folder)
    groups: dict[tuple[str, ...], list[tuple[Job, str]]] = {}
    for job in jobs:
        nearest = nearest_run(known, [job])
        lines = tuple(nearest.lines()) if nearest else ()
        groups.setdefault(lines, []).append((job, nearest.run_key if nearest else ""))
    for lines, group in groups.items():
        for job, _ in group:
            yield f"{job.key} {job.label}: runs because no run of this key is in {folder.path}"
        if lines:
            (first, *others) = dict.fromkeys(key for _, key in group)
            more = f" and {len(others)} more" if others else ""
            are = f"runs there, {first}{more}, differ" if others else f"run there, {first}, differs"
            yield f"  the most similar {are} in:"
            yield from (f"  {line}" for line in lines)
