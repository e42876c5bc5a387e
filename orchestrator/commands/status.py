"""`pruneyard status`: shows the state of submitted jobs."""

import json
import time
from datetime import timedelta
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from pruneyard.cluster.jobs import JobView
from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.remote.submission import connect, describe_outcome


def execute(job_id: str, address: str | None, as_json: bool) -> int:
    """List the jobs of a cluster, or show JOB with the last line of its log."""
    with connect(address, job_id) as (_, server):
        views = [server.view(job_id)] if job_id else server.views()
        last = server.logs(job_id).rstrip().rpartition("\n")[2] if job_id else ""
    if as_json:
        click.echo(json.dumps([_record(view) for view in views], indent=1))
        return ExitCode.FINISHED
    stdout_console().print(_table(views))
    if last:
        click.echo(last)
    return ExitCode.FINISHED


def _record(view: JobView) -> dict[str, Any]:
    return {
        "job": view.job_id,
        "study": view.metadata.get("study", ""),
        "status": view.status,
        "exit_code": view.code if view.ended else None,
        "outcome": describe_outcome(view),
        "out": view.metadata.get("out", ""),
        "submitted_at": view.submitted_at,
        "ended_at": view.ended_at or None,
    }


def _table(views: list[JobView]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for header in ("job", "is", "for", "results"):
        table.add_column(header)
    for view in views:
        lasted = timedelta(seconds=round((view.ended_at or time.time()) - view.submitted_at))
        table.add_row(*map(Text, (view.job_id, describe_outcome(view), str(lasted), view.metadata.get("out", ""))))
    return table
