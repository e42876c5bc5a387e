"""`pruneyard retry`: runs failed and interrupted jobs again."""

from pruneyard.orchestrator.commands.resume import spec_of
from pruneyard.orchestrator.commands.run import run_and_report
from pruneyard.reports.location import Location
from pruneyard.reports.records import Status


def execute(
    folder: Location, only: str | None, address: str, local: bool, fail_fast: bool, no_report: bool, as_json: bool
) -> int:
    """Run the FAILED and INTERRUPTED jobs of DIR again, but not jobs that have never started.

    With --only pruned, jobs that were stopped early resume and run to their end.
    """
    chosen = frozenset([Status(only.upper())] if only else [Status.FAILED, Status.INTERRUPTED])
    return run_and_report(
        spec_of(folder),
        folder,
        address=address,
        local=local,
        fail_fast=fail_fast,
        with_page=not no_report,
        as_json=as_json,
        only=chosen,
    )
