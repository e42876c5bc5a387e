"""`pruneyard resume`: resumes the study of a results folder."""

from collections.abc import Sequence

from pruneyard.orchestrator.commands.run import run_and_report
from pruneyard.orchestrator.commands.start_folder import as_started
from pruneyard.orchestrator.driver.cached_runs import Caches
from pruneyard.orchestrator.planning.finished import request_of
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location


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
    caches = Caches.of(cache and cache.absolute(), [place.absolute() for place in cache_from])
    with as_started(folder) as (spec, place):
        return run_and_report(
            spec,
            place,
            address=address,
            local=local,
            fail_fast=fail_fast,
            with_page=not no_report,
            as_json=as_json,
            caches=caches,
            request=request_of(RunFolder(place).spec),
        )
