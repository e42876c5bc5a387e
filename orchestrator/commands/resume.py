"""`pruneyard resume`: resumes the study of a results folder."""

from collections.abc import Sequence

from pruneyard.orchestrator.commands.run import run_and_report
from pruneyard.orchestrator.driver.cached_runs import Caches
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.planning.finished import request_of
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location


def spec_of(folder: Location) -> Spec:
    """Returns the spec that a folder was run with. Raises `UsageError` if there is none."""
    path = RunFolder(folder).spec
    if not path.exists():
        raise UsageError(f"{folder}: holds no {path.name}, so it is no folder of results")
    return load_spec(path)


def execute(
    folder: Location,
    address: str,
    local: bool,
    fail_fast: bool,
    no_report: bool,
    cache: Location | None,
    cache_from: Sequence[Location],
    as_json: bool,
) -> int:
    """Resume DIR: run what is missing, interrupted or failed, from the newest checkpoints."""
    return run_and_report(
        spec_of(folder),
        folder,
        address=address,
        local=local,
        fail_fast=fail_fast,
        with_page=not no_report,
        as_json=as_json,
        caches=Caches.of(cache, cache_from),
        request=request_of(RunFolder(folder).spec),
    )
