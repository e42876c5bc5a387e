"""`pruneyard kill`: ends a submitted job at once."""

import click

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    address_option,
    connect,
    job_argument,
    print_message,
    print_outcome,
)


@click.command("kill")
@job_argument
@address_option
def command(job_id: str, address: str | None) -> int:
    """End JOB at once. Finished trials and checkpoints already written are kept; submit again to resume."""
    with connect(address, job_id) as (_, server):
        view = server.kill(job_id)
    if view.ended:
        return print_outcome(view)
    print_message(f"{job_id} has not ended; the node of its driver may be gone")
    return ExitCode.TIMED_OUT
