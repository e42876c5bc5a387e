"""`pruneyard plan`: lists the jobs of a spec and what is left to run; writes nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
import joblib
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.commands.spec_changes import spec_changes
from pruneyard.orchestrator.driver.cached_runs import Caches, cached_jobs
from pruneyard.orchestrator.driver.run import default_folder
from pruneyard.orchestrator.driver.stages import check_ready_jobs
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.planning.cost import Estimate, estimate
from pruneyard.orchestrator.planning.plan import Plan, make_plan
from pruneyard.orchestrator.planning.stage_graph import StageInput, stage_graph
from pruneyard.orchestrator.search.proposals import num_proposals_left
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.formats import amount, plural, time_span
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.workloads.data.dataset import DataNotFoundError

MAX_ROWS = 40


def execute(
    spec: str,
    out: Location | None,
    sets: Sequence[str],
    axes: Sequence[str],
    plugins: Sequence[str],
    cache: Location | None,
    cache_from: Sequence[Location],
    as_json: bool,
) -> int:
    """Validate SPEC, list its jobs as finished, failed or missing, and estimate the cost of what is left."""
    resolved = load_spec(spec, **spec_changes(sets, axes, plugins))
    plan = make_plan(resolved, RunFolder(out or default_folder(resolved)))
    cached = frozenset(job.key for job, _ in cached_jobs(plan, Caches.of(cache, cache_from)))
    cost, missing_data = _cost(plan, cached)
    if as_json:
        click.echo(json.dumps(_as_json(plan, cost, missing_data, cached), indent=1))
    else:
        _print(plan, cost, missing_data, cached)
    return 0


def _cost(plan: Plan, cached: frozenset[str]) -> tuple[Estimate | None, str | None]:
    cores = joblib.cpu_count()
    wanted = [stage.header.resources for stage in plan.spec.stages]
    # By the stage with the largest trials, so the estimate is rather too long than too short.
    slots = max(1, cores // max(resources.cpus * resources.workers for resources in wanted))
    attempts = plan.attempts()
    try:
        data = check_ready_jobs(attempts, plan, warned=set())
    except UsageError as error:
        # A plan can be listed before its data is there; only the estimate needs it.
        if isinstance(error.__cause__, DataNotFoundError):
            return None, str(error)
        raise
    workers = {stage.name: stage.header.resources.workers for stage in plan.spec.stages}
    jobs = [planned.job for planned in attempts if planned.job.key not in cached]
    return estimate(jobs, data, slots=slots, workers=workers, known=plan.spec.jobs), None


def _as_json(plan: Plan, cost: Estimate | None, missing_data: str | None, cached: frozenset[str]) -> dict[str, Any]:
    jobs = [
        {
            "run_key": job.key,
            "label": job.label,
            "status": (status.value if (status := plan.status(job)) else "MISSING"),
            "in_cache": job.key in cached,
            "spec": job.resolved,
        }
        for job in plan.spec.jobs
    ]
    return {
        "study": plan.spec.name,
        "folder": str(plan.folder.path),
        "counts": plan.counts(),
        "num_in_cache": len(cached),
        "stages": [asdict(node) for node in stage_graph(plan)],
        "to_be_proposed": {name or "": count for name, count in num_proposals_left(plan.spec, plan.folder).items()},
        "estimate": asdict(cost) if cost else None,
        "missing_data": missing_data,
        "jobs": jobs,
    }


def _draw_graph(plan: Plan, console: Console) -> None:
    """Prints one line for each stage of a chain: its jobs by status, and an arrow from everything that they take runs from."""
    nodes = stage_graph(plan)
    if not nodes:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("stage", "kind", "jobs", "status", "inputs"):
        table.add_column(column, justify="right" if column == "jobs" else "left")
    for node in nodes:
        counts = ", ".join(f"{count} {name}" for name, count in node.counts.items())
        inputs = ", ".join(map(_arrow, node.inputs))
        number = f"at most {node.num_candidates}" if node.waits_for else str(node.num_jobs)
        table.add_row(Text(node.name), node.kind, number, counts or "not known yet", Text(inputs))
    console.print()
    console.print(table)
    for node in nodes:
        if node.waits_for:
            console.print(f"{node.name} gets its jobs while the study runs: {node.waits_for}", markup=False)


def _arrow(taken: StageInput) -> str:
    number = str(taken.most) if taken.fewest == taken.most else f"{taken.fewest}-{taken.most}"
    return f"<- {taken.origin} ({number} {'run' if number == '1' else 'runs'} per job)"


def _print(plan: Plan, cost: Estimate | None, missing_data: str | None, cached: frozenset[str]) -> None:
    console = stdout_console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("run key", "job", "status"):
        table.add_column(column)
    for job in plan.spec.jobs[:MAX_ROWS]:
        status = plan.status(job)
        found = ", in the cache" if job.key in cached else ""
        table.add_row(job.key, Text(job.label), Text((status.value.lower() if status else "missing") + found))
    if len(plan.spec.jobs) > MAX_ROWS:
        table.add_row("", f"and {len(plan.spec.jobs) - MAX_ROWS} more", "")
    console.print(table)
    _draw_graph(plan, console)
    counts = ", ".join(f"{count} {name}" for name, count in plan.counts().items() if count)
    console.print(f"\n{plan.spec.name}: {plural(len(plan.spec.jobs), 'job')}, {counts}; results go into {plan.folder.path}")
    if cached:
        console.print(f"{len(cached)} of the jobs that are left are in the cache; `run` takes those that are whole")
    for name, count in num_proposals_left(plan.spec, plan.folder).items():
        whose = f"the search of {name}" if name else "its search"
        console.print(f"{whose} proposes up to {count} more settings while it runs; they are not counted here")
    if missing_data is not None:
        console.print(missing_data, markup=False, soft_wrap=True)
    elif cost is not None and cost.dense_flops:
        most = "at most " if any(stage.header.scheduler.name != "fifo" for stage in plan.spec.stages) else ""
        console.print(
            f"left: {most}{amount(cost.dense_flops, 'FLOP')} of training, roughly "
            f"{time_span(cost.start_up_s + cost.seconds)} with {cost.slots} trials at once on this machine's CPU"
        )
