"""`pruneyard run`: runs a study and prints its summary; `resume` and `retry` share this."""

import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import click
from rich.console import Console

from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.commands.spec_changes import spec_changes
from pruneyard.orchestrator.commands.summary_table import summary_table
from pruneyard.orchestrator.driver.run import default_folder, run_plan
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.planning.plan import Plan, make_plan
from pruneyard.orchestrator.progress.display import open_display
from pruneyard.orchestrator.progress.ray_output import RayOutputFilter
from pruneyard.orchestrator.results import ClusterLostError, GracefulInterrupt, Results
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.records import Status
from pruneyard.reports.storage import StorageError


def execute(
    spec: str,
    out: Location | None,
    sets: Sequence[str],
    axes: Sequence[str],
    address: str,
    local: bool,
    fail_fast: bool,
    add: bool,
    as_json: bool,
) -> int:
    """Run what is missing of SPEC, a YAML file or the name of a packaged spec.

    A second call repairs and never repeats: finished jobs are kept, failed and interrupted ones run again.
    """
    resolved = load_spec(spec, **spec_changes(sets, axes))
    folder = out or default_folder(resolved)
    return run_and_report(resolved, folder, address=address, local=local, fail_fast=fail_fast, as_json=as_json, add=add)


def run_and_report(
    spec: Spec,
    folder: Location,
    *,
    address: str,
    local: bool,
    fail_fast: bool,
    as_json: bool,
    only: frozenset[Status | None] | None = None,
    add: bool = False,
) -> int:
    """Runs with live progress, writes the report, prints the summary; returns the exit code."""
    console = Console(stderr=True)
    plan = make_plan(spec, RunFolder(folder))
    before = plan.counts()
    finished = f", {before['completed']} already finished" if before["completed"] else ""
    where = "in this process" if local else "on a Ray cluster of this machine" if address == "local" else f"on {address}"
    num_jobs = len(plan.spec.jobs)
    searched = "".join(f", searching {s.learning.search.max_trials} trials" for s in spec.stages if s.learning)
    head = f"{spec.name}: {num_jobs} jobs{searched}{finished}, {where}, into {folder}"
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    with open_display(console) as shown, redirect_stdout(RayOutputFilter()):
        results, code = _run(
            plan, address=address, local=local, fail_fast=fail_fast, only=only, add=add, display=shown
        )
    page = _page(results)
    # The counts and labels must include what has run and what searches have proposed meanwhile.
    plan = plan.reread()
    if as_json:
        click.echo(json.dumps(_summary(results, plan, code, page), indent=1))
    else:
        _print_results(results, page, {job.key: job.label for job in plan.spec.jobs})
        _print_fronts(results, plan.spec)
    return code


def _page(results: Results) -> Location | None:
    """Writes the report; returns its path, or None after a warning if it cannot be written. The results are not affected."""
    try:
        return results.report()
    except StorageError as error:
        click.echo(f"pruneyard: there is no report, because of {error}", err=True)
        return None


def _run(plan: Plan, **options: Any) -> tuple[Results, ExitCode]:
    """Returns the results and the exit code, also after Ctrl-C and if the cluster was lost."""
    try:
        results = run_plan(plan, **options)
    except GracefulInterrupt as stop:
        return stop.results, ExitCode.INTERRUPTED
    except ClusterLostError as end:
        click.echo(f"pruneyard: {end}", err=True)
        return end.results, ExitCode.UNREACHABLE
    return results, results.exit_code


def _summary(results: Results, plan: Plan, code: ExitCode, page: Location | None) -> dict[str, Any]:
    frame = results.summary()
    return {
        "study": plan.spec.name,
        "folder": str(results.folder.path),
        "exit_code": int(code),
        "jobs": plan.counts(),
        "report": None if page is None else str(page),
        "summary": json.loads(frame.to_json(orient="records")),
    }


def _print_fronts(results: Results, spec: Spec) -> None:
    """Prints the Pareto front of each search: the cells that no other cell beats in all objectives."""
    out = stdout_console()
    for stage in spec.stages:
        if stage.learning is not None and len(results.runs()):
            directions = stage.learning.search.directions
            front = results.pareto(directions)
            words = " and ".join(f"{way} {name}" for name, way in directions.items())
            out.print(f"{len(front)} not beaten in {words}:", highlight=False)
            shown = [name for name in (*front.attrs["settings"], "model", "method", "density", *directions) if name in front]
            out.print(front[list(dict.fromkeys(shown))].to_string(index=False), markup=False, highlight=False)


def _print_results(results: Results, page: Location | None, labels: Mapping[str, str]) -> None:
    runs = results.runs()
    out = stdout_console()
    if len(runs):
        elsewhere = f"pruneyard export {results.folder.path}, or the report"
        out.print(summary_table(results.summary(), width=out.width, elsewhere=elsewhere))
    failed = runs[runs["status"] == Status.FAILED.value]
    for _, row in failed.head(5).iterrows():
        last = str(row["error"]).strip().splitlines()[-1]
        label = labels.get(row["run_key"], f"{row['model']} {row['method']} seed={row['seed']}")
        out.print(f"FAILED {row['run_key']} ({label}): {last}", markup=False, highlight=False, soft_wrap=True)
    if len(failed) > 5:
        out.print(f"and {len(failed) - 5} more failed; their tracebacks are in the report", highlight=False)
    interrupted = int((runs["status"] == Status.INTERRUPTED.value).sum())
    if waiting := len(labels.keys() - set(runs["run_key"])) + interrupted:
        left = f"{interrupted} interrupted, {waiting - interrupted} not started"
        out.print(f"{left}; resume with: pruneyard resume {results.folder.path}", highlight=False, soft_wrap=True)
    if page is not None:
        out.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
