"""`pruneyard report`: renders results as one HTML page."""

from collections.abc import Sequence

import click

from pruneyard.orchestrator.results import check_results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.page import write_page


def check_folders(folders: Sequence[Location]) -> list[Location]:
    """Returns the folders. Raises `UsageError` if one of them is no results folder."""
    for folder in folders:
        check_results(RunFolder(folder))
    return list(folders)


def execute(folders: Sequence[Location], out: Location | None) -> int:
    """Render the results of one or more folders as one self-contained HTML page."""
    page = write_page(check_folders(folders), out or RunFolder(folders[0]).report)
    click.echo(page)
    return 0
