"""`pruneyard logs`: prints the log of a submitted job."""

import click

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    address_option,
    connect,
    job_argument,
    print_outcome,
    write_log,
)


@click.command("logs")
@job_argument
@address_option
@click.option(
    "-f", "--follow", is_flag=True, help="Until the job ends; exit as it does. Ctrl-C only stops following."
)
def command(job_id: str, address: str | None, follow: bool) -> int:
    """Print the log of JOB."""
    with connect(address, job_id) as (_, server):
        if follow:
            server.view(job_id)  # one that does not exist is said at once
            return print_outcome(server.follow(job_id, write_log))
        server.view(job_id)
        write_log(server.logs(job_id))
    return ExitCode.FINISHED
