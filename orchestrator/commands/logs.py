"""`pruneyard logs`: prints the log of a submitted job."""

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    connect,
    print_outcome,
    write_log,
)


def execute(job_id: str, address: str | None, follow: bool) -> int:
    """Print the log of JOB."""
    with connect(address, job_id) as (_, server):
        if follow:
            server.view(job_id)  # one that does not exist is said at once
            return print_outcome(server.follow(job_id, write_log))
        server.view(job_id)
        write_log(server.logs(job_id))
    return ExitCode.FINISHED
