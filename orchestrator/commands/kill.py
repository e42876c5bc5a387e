"""`pruneyard kill`: ends a submitted job at once."""

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    connect,
    print_message,
    print_outcome,
)


def execute(job_id: str, address: str | None) -> int:
    """End JOB at once. Finished trials and checkpoints already written are kept; submit again to resume."""
    with connect(address, job_id) as (_, server):
        view = server.kill(job_id)
    if view.ended:
        return print_outcome(view)
    print_message(f"{job_id} has not ended; the node of its driver may be gone")
    return ExitCode.TIMED_OUT
