"""Prints what a call of `run` ends with: the summary, what failed or is left, the page and the fronts."""

import json
from typing import Any

import click

from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.commands.summary_table import table_of
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.planning.finished import Answer
from pruneyard.reports.location import Location


def print_answer(answer: Answer, *, folder: Location, page: Location | None, code: ExitCode, as_json: bool) -> None:
    """Prints the answer on stdout, as tables or as JSON."""
    if as_json:
        click.echo(json.dumps(_machine_readable(answer, folder=folder, page=page, code=code), indent=1))
        return
    out = stdout_console()
    if answer.num_rows:
        elsewhere = f"pruneyard export {folder}, or the report"
        out.print(table_of(answer.columns, num_rows=answer.num_rows, width=out.width, elsewhere=elsewhere))
    where = [] if page is None else [f"report: {page}"]
    for line in (*answer.notes, *where, *answer.fronts):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _machine_readable(answer: Answer, *, folder: Location, page: Location | None, code: ExitCode) -> dict[str, Any]:
    return {
        "study": answer.study,
        "folder": str(folder),
        "exit_code": int(code),
        "jobs": answer.counts,
        "report": None if page is None else str(page),
        "summary": answer.summary,
    }
