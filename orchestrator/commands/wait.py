"""`pruneyard wait`: waits until a submitted job has ended."""

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    connect,
    describe_outcome,
    print_message,
    print_outcome,
)


def execute(job_id: str, address: str | None, timeout: float | None) -> int:
    """Wait for JOB and exit as it did."""
    with connect(address, job_id) as (_, server):
        server.view(job_id)  # fails at once if the job does not exist or the server cannot be reached
        view = server.wait(job_id, timeout_s=timeout)
    if view.ended:
        return print_outcome(view)
    print_message(f"{job_id} is still {describe_outcome(view)} after {timeout:g} s")
    return ExitCode.TIMED_OUT
