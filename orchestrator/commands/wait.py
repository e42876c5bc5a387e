"""`pruneyard wait`: until a submitted job has ended."""

import click

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    address_option,
    cluster_of,
    job_argument,
    outcome,
    say,
    tell_end,
)


@click.command("wait")
@job_argument
@address_option
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Seconds; then exit with 124.")
def command(job_id: str, address: str | None, timeout: float | None) -> int:
    """Wait for JOB and exit as it did."""
    with cluster_of(address, job_id) as (_, server):
        server.view(job_id)  # one that does not exist, or a server that is away, is said at once
        view = server.wait(job_id, timeout_s=timeout)
    if view.ended:
        return tell_end(view)
    say(f"{job_id} is still {outcome(view)} after {timeout:g} s")
    return ExitCode.TIMED_OUT
