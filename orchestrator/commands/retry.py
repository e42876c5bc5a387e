"""`pruneyard retry`: runs failed and interrupted jobs again."""

from pruneyard.orchestrator.commands.run import run_and_report
from pruneyard.orchestrator.commands.start_folder import as_started
from pruneyard.reports.location import Location
from pruneyard.reports.records import Status


def execute(
    folder: Location, only: str | None, address: str, local: bool, fail_fast: bool, no_report: bool, as_json: bool
) -> int:
    """Run the FAILED and INTERRUPTED jobs of DIR again, but not jobs that have never started.

    With --only pruned, jobs that were stopped early resume and run to their end.
    """
    chosen = frozenset([Status(only.upper())] if only else [Status.FAILED, Status.INTERRUPTED])
    with as_started(folder) as (spec, place):
        return run_and_report(
            spec,
            place,
            address=address,
            local=local,
            fail_fast=fail_fast,
            with_page=not no_report,
            as_json=as_json,
            only=chosen,
        )
