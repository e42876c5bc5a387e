"""Checks what a search or a scheduler cannot be combined with: another scheduler, a kind of job, unknown numbers of steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from pruneyard.orchestrator.spec.codec import encode, hints_of, short_json
from pruneyard.orchestrator.spec.direction import warn_of_slip
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.orchestrator.spec.search import CHANGEABLE, Choices, Search
from pruneyard.orchestrator.spec.stage import Header
from pruneyard.workloads.function.lengths import LENGTHS
from pruneyard.workloads.plugins import find_job, kinds
from pruneyard.workloads.training.segment import WHOLE


def warn_of_slips(header: Header, search: Search | None) -> None:
    """Warns of metrics that are probably misspelled; functions report what they like."""
    best = header.settings.get("best")
    metrics = [best.get("metric") if isinstance(best, Mapping) else best]
    metrics += [getattr(header.scheduler, "metric", None), *([search.metric, *search.objectives] if search else [])]
    for metric in metrics if header.kind != "function" else ():
        if isinstance(metric, str):
            warn_of_slip(metric)


def check_combination(
    header: Header, search: Search, job_class: type[Any] | None, tables: Mapping[str, Any], log: ProblemLog
) -> None:
    """Reports a scheduler or kind that the search cannot be combined with."""
    scheduler = header.scheduler.name
    if search.is_population:
        _check_population(search, job_class, tables, log)
        if scheduler != "fifo":
            why = f"{search.name} decides itself which trainings continue"
            log.add("scheduler.name", f"is {short_json(scheduler)}; {why}, so leave the scheduler out")
    elif search.learns and scheduler == "hyperband":
        why = f"it assigns all configurations to its brackets at once, and search {search.name} proposes them in rounds"
        log.add("scheduler.name", f"is {short_json(scheduler)}; {why}, so choose asha or median beside it")


def _check_population(
    search: Search, job_class: type[Any] | None, tables: Mapping[str, Any], log: ProblemLog
) -> None:
    """Reports what PBT cannot search: settings that change during a training must not change the shape of a checkpoint."""
    if job_class is not None and "segment" not in hints_of(job_class):
        able = ", ".join(kind for kind in kinds() if "segment" in hints_of(find_job(kind)))
        why = f"jobs of kind {tables['kind']} cannot resume from one another"
        log.add(
            "search.name", f"is {short_json(search.name)}; {why}, so choose another search, or kind {able}"
        )
    grid = tables.get("grid") or {}
    whole = tables.get("segment") in (None, encode(WHOLE))  # a spec with all defaults written out says so
    for key in (*tables, *(grid if isinstance(grid, Mapping) else ()), *search.space):
        if key.split(".")[0] == "segment" and not (whole and key == "segment"):
            log.add(key, f"is what search {search.name} sets; leave it out")
    for key, values in search.space.items():
        table, _, name = key.partition(".")
        is_constant = isinstance(values, Choices) and len(values.choices) == 1
        if not is_constant and (table not in CHANGEABLE or name in ("", "name")):
            listed = ", ".join(CHANGEABLE)
            log.add(
                f"search.space.{key}",
                f"cannot change while a network is trained; with {search.name} it must be a number or choice inside {listed}",
            )


def check_steps(header: Header, search: Search | None, jobs: Sequence[Job], log: ProblemLog) -> None:
    """Reports jobs of which it is not known how many steps they have, where shares of their steps are to be taken."""
    user = (
        f"search {search.name}" if search and search.is_population else f"scheduler {header.scheduler.name}"
    )
    if user == "scheduler fifo" or all(getattr(job.workload, "num_steps", 0) is not None for job in jobs):
        return
    why = f"{user} takes shares of the steps of a training, so it must be the step of the last report"
    log.add(
        "steps", f"is missing; {why}, or the function must have one of the arguments {', '.join(LENGTHS)}"
    )
