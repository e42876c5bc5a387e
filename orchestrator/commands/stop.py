"""`pruneyard stop`: stops a submitted job gracefully."""

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    connect,
    print_message,
    print_outcome,
)


def execute(job_id: str, address: str | None, grace: float) -> int:
    """Stop JOB gracefully: running trials write a checkpoint and end as INTERRUPTED. Submit again to resume."""
    with connect(address, job_id) as (_, server):
        view = server.stop(job_id, grace_s=grace)
    if view.ended:
        return print_outcome(view)
    print_message(
        f"{job_id} was told to stop and has not ended after {grace:g} s; to end it at once: pruneyard kill {job_id}"
    )
    return ExitCode.TIMED_OUT
