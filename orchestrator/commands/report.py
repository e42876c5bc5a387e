"""`pruneyard report`: renders results as one HTML page."""

from collections.abc import Sequence

import click

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.results import check_results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.matched import Budget
from pruneyard.reports.page import write_page


def check_folders(folders: Sequence[Location]) -> list[Location]:
    """Returns the folders. Raises `UsageError` if one of them is no results folder."""
    for folder in folders:
        check_results(RunFolder(folder))
    return list(folders)


def execute(folders: Sequence[Location], budget: str | None, pool: Sequence[str], out: Location | None) -> int:
    """Render the results of one or more folders as one self-contained HTML page."""
    given = f"--budget {budget}" if budget is not None else f"--pool {pool[0]}" if pool else None
    if given is not None and out is None:
        raise UsageError(f"{given}: needs --out, so that the page of whole runs and single settings stays where it is")
    where = out or RunFolder(folders[0]).report
    try:
        chosen = None if budget is None else Budget.parse(budget)
        page = write_page(check_folders(folders), where, budget=chosen, pool=pool)
    except ValueError as error:
        raise UsageError(str(error)) from error
    click.echo(page)
    return 0
