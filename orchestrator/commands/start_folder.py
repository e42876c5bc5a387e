"""Finds what a results folder's spec names from the folder in which the study was started, whatever the current folder is."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.planning.compatibility import nearest_run, recorded_identities
from pruneyard.orchestrator.planning.inputs import input_paths
from pruneyard.orchestrator.search.proposals import with_proposed_jobs
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.planned import read_plan, read_started_in

logger = logging.getLogger(__name__)


def spec_of(folder: Location) -> Spec:
    """Returns the spec that a folder was run with. Raises `UsageError` if there is none."""
    path = RunFolder(folder).spec
    if not path.exists():
        raise UsageError(f"{folder}: holds no {path.name}, so it is no folder of results")
    return load_spec(path)


@contextmanager
def as_started(folder: Location) -> Iterator[tuple[Spec, Location]]:
    """Yields the spec of a results folder and the path of that folder, in the folder in which the study was started.

    Where that one is not known or does not exist here, the current folder stays. Raises `UsageError` if the spec then gives other
    jobs than before.
    """
    start = read_started_in(RunFolder(folder))
    if start is None or not (os.access(start, os.X_OK) and Path(start).is_dir()):
        spec = spec_of(folder)
        _check_same_jobs(spec, RunFolder(folder), start=start)
        yield spec, folder
    elif Path(start).samefile(Path.cwd()):
        yield spec_of(folder), folder
    else:
        logger.warning("this study was started in %s, from which its spec names files", start)
        folder = folder.resolve()
        with _searched_instead_of_current(start), chdir(start):
            yield spec_of(folder), folder


@contextmanager
def _searched_instead_of_current(folder: str) -> Iterator[None]:
    """Lets imports find modules in a folder before they do in the current one, which `python -m` searches first."""
    before, here = list(sys.path), str(Path.cwd())
    if here in before:
        sys.path.insert(before.index(here), folder)
    try:
        yield
    finally:
        sys.path[:] = before


def _check_same_jobs(spec: Spec, folder: RunFolder, *, start: str | None) -> None:
    planned = read_plan(folder)
    jobs = with_proposed_jobs(spec, folder).jobs
    if not planned or not jobs or not planned.isdisjoint(job.key for job in jobs):
        return
    lines = [f"{folder.path}: its spec gives none of its jobs from {Path.cwd()}, so it names other files here"]
    nearest = nearest_run(recorded_identities(folder), jobs[:1])
    lines += ["the two nearest jobs differ in:", *nearest.lines()] if nearest and nearest.differences else []
    if code := [path for path in input_paths(jobs[:1]) or () if path.endswith(".py")]:
        lines.append(f"the code here is {', '.join(code)}")
    where = "the folder in which the study was started" if start is None else f"a copy of {start}, which does not exist here"
    lines.append(f"call this in {where}, or run these jobs with: pruneyard run {folder.spec} --out DIR")
    raise UsageError("\n".join(lines))
