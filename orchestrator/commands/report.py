"""`pruneyard report`: Parquet to one HTML page."""

from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.results import check_results
from reports.layout import RunFolder
from reports.page import write_page


def existing(folders: Sequence[Path]) -> list[Path]:
    """The folders themselves. Raises `UsageError` for one that is no folder of results."""
    for folder in folders:
        check_results(RunFolder(folder))
    return list(folders)


@click.command("report")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page [default: report.html in the first DIR].")
def command(folders: Sequence[Path], out: Path | None) -> int:
    """Render the results of one or more folders as one self-contained HTML page."""
    page = write_page(existing(folders), out or RunFolder(folders[0]).report)
    click.echo(page)
    return 0
