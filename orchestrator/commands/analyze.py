"""`pruneyard analyze`: one analysis of a folder of results as a table."""

import click

from pruneyard.orchestrator.commands.report import check_folders
from pruneyard.orchestrator.reading.analyses import analysis
from pruneyard.reports.export import export
from pruneyard.reports.location import Location
from pruneyard.reports.study import Study


def execute(
    folders: tuple[Location, ...],
    kind: str,
    metric: str | None,
    target: float | None,
    cost: str | None,
    evaluator: str | None,
    form: str | None,
) -> int:
    """Print one analysis of one or more folders."""
    study = Study.read(check_folders(folders))
    table = analysis(study, kind, metric=metric, target=target, cost=cost, evaluator=evaluator)
    click.echo(export(table, form or "md"), nl=False)
    return 0
