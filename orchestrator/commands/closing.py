"""Prints what a call of `run` ends with: the summary, what failed or is left, the page and the fronts."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.commands.summary_table import table_of
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.planning.finished import Answer
from pruneyard.reports.location import Location

Page = tuple[Location | None, Sequence[str]]
"""Where the page is, and what its head answers, a line a question."""


def print_answer(
    answer: Answer, *, folder: Location, page: Callable[[], Page], code: ExitCode, as_json: bool
) -> Page:
    """Prints the answer on stdout, as tables or as JSON; returns the page.

    page: writes the page and returns its path, None without one, and what its head answers. It is called after the tables are
        printed: these do not depend on it, and it takes longer.
    """
    if as_json:
        written = page()
        click.echo(json.dumps(_machine_readable(answer, folder=folder, page=written, code=code), indent=1))
        return written
    out = stdout_console()
    if answer.num_rows:
        elsewhere = f"pruneyard export {folder}, or the report"
        out.print(table_of(answer.columns, num_rows=answer.num_rows, width=out.width, elsewhere=elsewhere))
    for line in (*answer.notes, *answer.fronts):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    path, answers = written = page()
    for line in answers:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if path is not None:
        out.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)
    return written


def _machine_readable(answer: Answer, *, folder: Location, page: Page, code: ExitCode) -> dict[str, Any]:
    path, answers = page
    return {
        "study": answer.study,
        "folder": str(folder),
        "exit_code": int(code),
        "jobs": answer.counts,
        "report": None if path is None else str(path),
        "answers": list(answers),
        "summary": answer.summary,
    }
