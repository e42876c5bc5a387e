"""`pruneyard wait`: waits until a submitted job has ended."""

import click

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    address_option,
    connect,
    describe_outcome,
    job_argument,
    print_message,
    print_outcome,
)


@click.command("wait")
@job_argument
@address_option
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Seconds; then exit with 124.")
def command(job_id: str, address: str | None, timeout: float | None) -> int:
    """Wait for JOB and exit as it did."""
    with connect(address, job_id) as (_, server):
        server.view(job_id)  # fails at once if the job does not exist or the server cannot be reached
        view = server.wait(job_id, timeout_s=timeout)
    if view.ended:
        return print_outcome(view)
    print_message(f"{job_id} is still {describe_outcome(view)} after {timeout:g} s")
    return ExitCode.TIMED_OUT
