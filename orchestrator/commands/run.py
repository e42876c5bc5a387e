"""`pruneyard run`: runs a study and prints its summary; `resume` and `retry` share this."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from pruneyard.orchestrator.commands.closing import Page, print_answer
from pruneyard.orchestrator.commands.program import replace_program
from pruneyard.orchestrator.commands.spec_changes import spec_changes
from pruneyard.orchestrator.commands.summary_table import columns_of
from pruneyard.orchestrator.driver.cached_runs import Caches, cached_jobs
from pruneyard.orchestrator.driver.run import default_folder, has_work, run_plan
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.planning.finished import Answer, paths_stamp, remember, request_of, results_stamp
from pruneyard.orchestrator.planning.inputs import input_paths
from pruneyard.orchestrator.planning.plan import Plan, make_plan
from pruneyard.orchestrator.progress.display import open_display
from pruneyard.orchestrator.progress.ray_output import RayOutputFilter
from pruneyard.orchestrator.results import ClusterLostError, GracefulInterrupt, Results
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.formats import plural
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.records import Status
from pruneyard.reports.storage import StorageError
from pruneyard.workloads.user_code.error_line import error_line

logger = logging.getLogger(__name__)


def execute(
    spec: str,
    out: Location | None,
    sets: Sequence[str],
    axes: Sequence[str],
    plugins: Sequence[str],
    address: str,
    local: bool,
    fail_fast: bool,
    no_report: bool,
    add: bool,
    cache: Location | None,
    cache_from: Sequence[Location],
    as_json: bool,
) -> int:
    """Run what is missing of SPEC, a YAML file or the name of a packaged spec.

    A second call repairs and never repeats: finished jobs are kept, failed and interrupted ones run again.
    """
    request = request_of(spec, sets=sets, axes=axes, plugins=plugins)
    resolved = load_spec(spec, **spec_changes(sets, axes, plugins))
    folder = out or default_folder(resolved)
    return run_and_report(
        resolved,
        folder,
        address=address,
        local=local,
        fail_fast=fail_fast,
        with_page=not no_report,
        as_json=as_json,
        add=add,
        caches=Caches.of(cache, cache_from),
        request=request,
    )


def run_and_report(
    spec: Spec,
    folder: Location,
    *,
    address: str,
    local: bool,
    fail_fast: bool,
    with_page: bool,
    as_json: bool,
    only: frozenset[Status | None] | None = None,
    add: bool = False,
    caches: Caches | None = None,
    request: str | None = None,
) -> int:
    """Runs with live progress, writes the report, prints the summary; returns the exit code.

    request: what was asked for; if the study is finished at the end, the same request is answered at once later.
    """
    console = Console(stderr=True)
    plan = make_plan(spec, RunFolder(folder))
    inputs = input_paths(plan.spec.jobs)
    # Before anything runs, so that a change meanwhile is noticed by the next call.
    inputs_stamp = paths_stamp(inputs or [])
    head = _head(plan, address=address, local=local, only=only, caches=caches)
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    with open_display(console) as shown, redirect_stdout(RayOutputFilter()):
        results, code = _run(
            plan,
            address=address,
            local=local,
            fail_fast=fail_fast,
            only=only,
            add=add,
            caches=caches,
            display=shown,
            abandon=partial(replace_program, with_page=with_page, as_json=as_json),
        )
    # The counts and labels must include what has run and what searches have proposed meanwhile.
    plan = plan.reread()
    state = results_stamp(plan.folder) if isinstance(plan.folder.path, Path) else None
    answer, page = print_results(results, plan, code=code, with_page=with_page, as_json=as_json)
    if code is ExitCode.FINISHED and page is not None and state is not None and inputs is not None and request is not None:
        _remember(answer, plan, request, inputs=inputs, inputs_stamp=inputs_stamp, results=state)
    return code


def print_results(
    results: Results, plan: Plan, *, code: ExitCode, with_page: bool, as_json: bool
) -> tuple[Answer, Location | None]:
    """Writes the report, unless without it, and prints the summary; returns what was printed and the location of the report."""
    answer = _answer(results, plan)
    page, answers = print_answer(
        answer, folder=results.folder.path, page=lambda: _page(results) if with_page else (None, ()), code=code, as_json=as_json
    )
    return replace(answer, answers=answers), page


def _head(
    plan: Plan, *, address: str, local: bool, only: frozenset[Status | None] | None, caches: Caches | None
) -> str:
    """Returns the line that says what is about to run, and where."""
    spec, before = plan.spec, plan.counts()
    num_jobs = len(spec.jobs)
    if not has_work(plan, only=only):
        what = f"all {num_jobs} jobs are finished" if before["completed"] == num_jobs else "no job is to be run"
        return f"{spec.name}: {what}, in {plan.folder.path}; nothing to run"
    finished = f", {before['completed']} already finished" if before["completed"] else ""
    if caches is not None and only is None and (num_cached := len(cached_jobs(plan, caches))):
        finished += f", {num_cached} in the cache"
    where = "in this process" if local else "on a Ray cluster of this machine" if address == "local" else f"on {address}"
    searched = "".join(f", searching {s.learning.search.max_trials} trials" for s in spec.stages if s.learning)
    return f"{spec.name}: {plural(num_jobs, 'job')}{searched}{finished}, {where}, into {plan.folder.path}"


def _remember(
    answer: Answer, plan: Plan, request: str, *, inputs: Sequence[str], inputs_stamp: str, results: str
) -> None:
    """Stores the answer for later calls. A folder that cannot be written costs them time only."""
    folder = plan.folder
    requests = [request]
    # `resume` asks for the spec as written in the folder, which may be that of another study.
    if folder.spec.is_file() and folder.spec.read_text(encoding="utf-8") == plan.spec.to_yaml():
        requests.append(request_of(folder.spec))
    try:
        remember(folder, answer, requests=requests, inputs=inputs, inputs_stamp=inputs_stamp, results=results)
    except StorageError as error:
        logger.warning("the next call will plan the study again: %s", error)


def _page(results: Results) -> Page:
    """Writes the report; returns its path, or None after a warning if it cannot be written. The results are not affected."""
    out = results.folder.report
    try:
        from pruneyard.reports.page import write_with_answers  # loads Altair and its renderer

        return out, write_with_answers([results.folder.path], out)
    except StorageError as error:
        problem = str(error)
    # The exit code says how the jobs ended, so no fault of the page may end the command.
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    click.echo(f"pruneyard: there is no report, because of {problem}", err=True)
    click.echo(f"pruneyard: the results are kept; try again with: pruneyard report {results.folder.path}", err=True)
    return None, ()


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


def _answer(results: Results, plan: Plan) -> Answer:
    frame = results.summary(columns="all")
    return Answer(
        study=plan.spec.name,
        num_jobs=len(plan.spec.jobs),
        columns=columns_of(frame) if len(frame) else [],
        num_rows=len(frame),
        notes=_notes(results, {job.key: job.label for job in plan.spec.jobs}),
        fronts=_fronts(results, plan.spec),
        counts=plan.counts(),
        summary=json.loads(frame.to_json(orient="records")),
    )


def _fronts(results: Results, spec: Spec) -> list[str]:
    """Returns the Pareto front of each search: the cells that no other cell beats in all objectives."""
    lines = []
    for stage in spec.stages:
        if stage.learning is not None and len(results.runs()):
            directions = stage.learning.search.directions
            front = results.pareto(directions, stage=stage.name)
            words = " and ".join(f"{way} {name}" for name, way in directions.items())
            shown = [name for name in (*front.attrs["settings"], "model", "method", "density", *directions) if name in front]
            lines += [f"{len(front)} not beaten in {words}:", front[list(dict.fromkeys(shown))].to_string(index=False)]
    return lines


def _notes(results: Results, labels: Mapping[str, str]) -> list[str]:
    """Returns what failed and what is left."""
    runs = results.runs()
    lines = []
    failed = runs[runs["status"] == Status.FAILED.value]
    for _, row in failed.head(5).iterrows():
        last = error_line(str(row["error"]))
        label = labels.get(row["run_key"], f"{row['model']} {row['method']} seed={row['seed']}")
        lines.append(f"FAILED {row['run_key']} ({label}): {last}")
    if len(failed) > 5:
        lines.append(f"and {len(failed) - 5} more failed; their tracebacks are in the report")
    interrupted = int((runs["status"] == Status.INTERRUPTED.value).sum())
    if waiting := len(labels.keys() - set(runs["run_key"])) + interrupted:
        left = f"{interrupted} interrupted, {waiting - interrupted} not started"
        lines.append(f"{left}; resume with: pruneyard resume {results.folder.path}")
    return lines
