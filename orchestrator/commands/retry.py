"""`pruneyard retry`: runs failed and interrupted jobs again."""

import click

from pruneyard.orchestrator.commands.options import (
    LOCATION,
    address_option,
    fail_fast_option,
    json_option,
    local_option,
)
from pruneyard.orchestrator.commands.resume import spec_of
from pruneyard.orchestrator.commands.run import run_and_report
from pruneyard.reports.location import Location
from pruneyard.reports.records import Status

KINDS = {"failed": Status.FAILED, "interrupted": Status.INTERRUPTED, "pruned": Status.PRUNED}


@click.command("retry")
@click.argument("folder", metavar="DIR", type=LOCATION)
@click.option("--only", type=click.Choice(list(KINDS)), help="Only these.")
@address_option
@local_option
@fail_fast_option
@json_option
def command(folder: Location, only: str | None, address: str, local: bool, fail_fast: bool, as_json: bool) -> int:
    """Run the FAILED and INTERRUPTED jobs of DIR again, but not jobs that have never started.

    With --only pruned, jobs that were stopped early resume and run to their end.
    """
    chosen = frozenset([KINDS[only]] if only else [Status.FAILED, Status.INTERRUPTED])
    return run_and_report(
        spec_of(folder), folder, address=address, local=local, fail_fast=fail_fast, as_json=as_json, only=chosen
    )
