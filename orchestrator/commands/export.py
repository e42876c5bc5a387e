"""`pruneyard export`: tables for papers and other programs."""

from pathlib import Path

import click

from orchestrator.commands.report import existing
from orchestrator.results import Results
from reports.durable import write_durably
from reports.export import export

TABLES = ("summary", "runs", "metrics", "curves")


@click.command("export")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["csv", "markdown", "latex"]), default="csv", show_default=True)
@click.option("--table", type=click.Choice(TABLES), default="summary", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="A file instead of stdout.")
def command(folder: Path, form: str, table: str, out: Path | None) -> int:
    """Print one table of DIR."""
    (checked,) = existing([folder])
    text = export(getattr(Results(checked), table)(), form)
    if out is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        write_durably(out, text.encode())
        click.echo(out)
    return 0
