"""`pruneyard kill`: ends a submitted job at once."""

import click

from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import address_option, cluster_of, job_argument, say, tell_end


@click.command("kill")
@job_argument
@address_option
def command(job_id: str, address: str | None) -> int:
    """End JOB at once. Finished trials and checkpoints already written are kept; submit again to go on."""
    with cluster_of(address, job_id) as (_, server):
        view = server.kill(job_id)
    if view.ended:
        return tell_end(view)
    say(f"{job_id} has not ended; the node of its driver may be gone")
    return ExitCode.TIMED_OUT
