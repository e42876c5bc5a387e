"""`pruneyard cache`: lists, explains, verifies and prunes a cache of finished runs."""

import heapq
import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from pruneyard.orchestrator.artifacts.run_cache import CachedRun, IncompleteRunError, NewerRunError, RunCache
from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.reports.formats import byte_size
from pruneyard.reports.location import Location, sizes_below

logger = logging.getLogger(__name__)

MAY_BE_WRITTEN = timedelta(hours=1)  # after its last change, an entry that is not whole may still be on its way


def ls(folder: Location, as_json: bool) -> int:
    """Prints one line for each finished run, the newest first."""
    cache = _opened(folder)
    by_key, _ = _finished_runs(cache, cache.run_keys())
    runs, sizes = _by_age(by_key), cache.sizes(by_key)
    if as_json:
        click.echo(json.dumps([_as_json(run, sizes) for run in runs], indent=1))
        return ExitCode.FINISHED
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("run key", "kind", "study", "data", "model", "method", "density", "seed", "ended", "size"):
        table.add_column(column, justify="right" if column in ("density", "seed", "size") else "left")
    for run in runs:
        row = run.attempt.run
        density = "" if row.density is None else f"{row.density:g}"
        texts = (row.run_key, row.kind, row.study, row.data, row.model, row.method, density, str(row.seed))
        table.add_row(*map(Text, texts), f"{row.ended_at:%Y-%m-%d %H:%M}", byte_size(sizes[row.run_key]))
    stdout_console().print(table)
    click.echo(f"{len(runs)} finished runs, {byte_size(sum(sizes.values()))}", err=True)
    return ExitCode.FINISHED


def explain(folder: Location, run_key: str) -> int:
    """Prints what a run is: its study, its spec, the data and runs that it rests on, and its files."""
    cache = _opened(folder)
    found = [key for key in cache.run_keys() if key.startswith(run_key)]
    if len(found) != 1:
        what = f"{len(found)} runs begin with it" if found else "no run of this cache begins with it"
        raise UsageError(f"{run_key}: {what}; `pruneyard cache ls {folder}` lists the keys")
    run = cache.read(found[0])
    if run is None:
        raise UsageError(f"{found[0]}: never finished; it is only a part of a run")
    row, keys = run.attempt.run, cache.run_keys()
    inputs = [f"{key}{'' if key in keys else ' (not in this cache)'}" for key in run.parents]
    sizes = sizes_below(run.artifact)
    facts = {
        "run key": row.run_key,
        "study": row.study if row.stage is None else f"{row.study}, stage {row.stage}",
        "ended": f"{row.ended_at:%Y-%m-%d %H:%M} UTC after {row.wall_s:.1f} s on {row.device}",
        "versions": f"pruneyard {row.code_version}, torch {row.torch_version}",
        "data": json.dumps(dict(run.data_record)) if run.data_record else "not known",
        "input": ", ".join(inputs) or "no other run",
        "files": ", ".join(run.file_names) + f": {byte_size(sum(sizes.get(name, 0) for name in run.file_names))}",
        "spec": json.dumps(run.manifest["spec"], indent=1),
    }
    for name, text in facts.items():
        click.echo(f"{name + ':':10} {text}")
    return ExitCode.FINISHED


def verify(folder: Location) -> int:
    """Reads every file of every entry; prints what is wrong."""
    cache = _opened(folder)
    keys = sorted(cache.run_keys())
    problems = [problem for key in keys for problem in cache.problems(key)]
    for problem in problems:
        click.echo(f"WRONG {problem}")
    click.echo(f"{len(keys)} entries, {len(problems)} of them not whole, which are never taken for finished runs", err=True)
    return ExitCode.FAILED if problems else ExitCode.FINISHED


def prune(folder: Location, older_than: timedelta | None, max_size: float | None, dry_run: bool) -> int:
    """Removes entries that are not whole, then runs by age and size; never one that a kept run was made from.

    An entry that is not whole may be one that is just being written, so it must have stayed unchanged for a while.
    """
    if older_than is None and max_size is None:
        raise click.UsageError("give --older-than, --max-size or both")
    cache = _opened(folder)
    cache.check_may_delete()
    if not dry_run:
        cache.mark()  # an unmarked cache would be none after its last run is removed
    now = datetime.now(UTC)
    before = None if older_than is None else now - older_than
    keys = cache.run_keys()  # once: what other studies add meanwhile is not judged
    runs, newer = _finished_runs(cache, keys)
    needed = [parent for key in newer for parent in cache.parents_of_newer(key)]
    sizes = cache.sizes(runs)
    removed = _to_remove(runs, sizes, needed=needed, before=before, max_bytes=max_size)
    unfinished = _unfinished(cache, keys.difference(runs, newer, needed), before=min(now - MAY_BE_WRITTEN, before or now))
    for key in (*unfinished, *removed):
        ended = f"ended {runs[key].attempt.run.ended_at:%Y-%m-%d %H:%M}" if key in runs else ""
        reason = ended or f"is not whole, and unchanged since {unfinished[key]:%Y-%m-%d %H:%M}"
        click.echo(f"{'would remove' if dry_run else 'removed'} {key}: {reason}")
        if not dry_run:
            cache.remove(key)
    left = [sizes[key] for key in runs if key not in removed]
    click.echo(f"{len(left)} finished runs are kept, {byte_size(sum(left))}", err=True)
    return ExitCode.FINISHED


def _to_remove(
    runs: Mapping[str, CachedRun],
    sizes: Mapping[str, int],
    *,
    needed: Collection[str],
    before: datetime | None,
    max_bytes: float | None,
) -> list[str]:
    """Returns the run keys to remove, dependants before what they were made from.

    From the oldest on, a run is removed if it ended before `before` or if the runs that are left take more than `max_bytes`,
    and if no run that is left was made from it, and it is not among `needed`.
    """
    num_dependants = Counter(parent for run in runs.values() for parent in run.parents)
    num_dependants.update(needed)
    total, removed = sum(sizes.values()), []
    removable = [(run.attempt.run.ended_at, key) for key, run in runs.items() if not num_dependants[key]]
    heapq.heapify(removable)
    while removable:
        ended_at, key = heapq.heappop(removable)
        # All that is still removable is younger, so nothing else is to be removed either.
        if not ((before is not None and ended_at < before) or (max_bytes is not None and total > max_bytes)):
            break
        removed.append(key)
        total -= sizes[key]
        num_dependants.subtract(runs[key].parents)
        for parent in runs[key].parents:
            if parent in runs and not num_dependants[parent]:
                heapq.heappush(removable, (runs[parent].attempt.run.ended_at, parent))
    return removed


def _unfinished(cache: RunCache, keys: Collection[str], *, before: datetime) -> dict[str, datetime]:
    """Returns those of the keys whose entries have not changed since `before`, with the time of their last change."""
    times = {key: cache.unfinished_since(key) for key in sorted(keys)}
    return {key: changed for key, changed in times.items() if changed is not None and changed < before}


def _opened(folder: Location) -> RunCache:
    cache = RunCache(folder)
    cache.check_is_cache()
    return cache


def _finished_runs(cache: RunCache, keys: Collection[str]) -> tuple[dict[str, CachedRun], set[str]]:
    """Returns the entries whose manifest and record are whole, by run key, and the keys of newer versions; warns of others."""
    found, newer = {}, set()
    for key in sorted(keys):
        try:
            run = cache.read(key)
        except (IncompleteRunError, NewerRunError) as error:
            logger.warning("%s", error)
            if isinstance(error, NewerRunError):
                newer.add(key)
            continue
        if run is not None:
            found[key] = run
    return found, newer


def _by_age(runs: Mapping[str, CachedRun]) -> Sequence[CachedRun]:
    return sorted(runs.values(), key=lambda run: (run.attempt.run.ended_at, run.attempt.run.run_key), reverse=True)


def _as_json(run: CachedRun, sizes: Mapping[str, int]) -> dict[str, Any]:
    row = run.attempt.run
    shown = ("run_key", "kind", "study", "stage", "data", "model", "method", "density", "ipc", "seed", "code_version")
    return {
        **{name: getattr(row, name) for name in shown},
        "ended_at": row.ended_at.isoformat(),
        "size_bytes": sizes[row.run_key],
        "parents": run.parents,
        "data_read": dict(run.data_record),
    }
