"""`pruneyard stop`: stops a submitted job gracefully."""

import click

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    address_option,
    connect,
    job_argument,
    print_message,
    print_outcome,
)


@click.command("stop")
@job_argument
@address_option
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for its checkpoints.",
)
def command(job_id: str, address: str | None, grace: float) -> int:
    """Stop JOB gracefully: running trials write a checkpoint and end as INTERRUPTED. Submit again to resume."""
    with connect(address, job_id) as (_, server):
        view = server.stop(job_id, grace_s=grace)
    if view.ended:
        return print_outcome(view)
    print_message(
        f"{job_id} was told to stop and has not ended after {grace:g} s; to end it at once: pruneyard kill {job_id}"
    )
    return ExitCode.TIMED_OUT
