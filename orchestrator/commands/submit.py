"""`pruneyard submit`: submits a spec as a job of a cluster, together with the installed code."""

from collections.abc import Sequence

import click

from pruneyard.orchestrator.commands.spec_changes import spec_changes
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import (
    cache_arguments,
    connect,
    folder_on_cluster,
    print_message,
    print_outcome,
    submit,
    write_log,
)
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.formats import plural
from pruneyard.reports.location import Location


def execute(
    spec: str,
    address: str | None,
    out: str | None,
    sets: Sequence[str],
    axes: Sequence[str],
    plugins: Sequence[str],
    cache: Location | None,
    cache_from: Sequence[Location],
    follow: bool,
    pin: str,
    python: str | None,
) -> int:
    """Submit SPEC and print the job's name. Submitting again resumes what is missing, and never runs a study twice at once."""
    resolved = load_spec(spec, **spec_changes(sets, axes, plugins))
    folder_on_cluster(out, resolved)
    caches = cache_arguments(cache, cache_from)
    with connect(address) as (found, server):
        if found.sends_token_unencrypted:
            print_message(f"the token travels to {found.shown} unencrypted; a tunnel to 127.0.0.1 keeps it from others")
        view, is_new = submit(found, server, resolved, out=out, pin=pin, python=python, caches=caches)
        how = f"submitted to {found.shown} {found.mode}" if is_new else "is under way already"
        print_message(f"{resolved.name}: {plural(len(resolved.jobs), 'job')}, {how}; see: pruneyard logs -f {view.job_id}")
        click.echo(view.job_id)
        if not follow:
            return ExitCode.FINISHED
        return print_outcome(server.follow(view.job_id, write_log))
