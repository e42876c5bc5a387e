"""`pruneyard figure`: one chart of a results folder as a file for papers."""

from pathlib import PurePosixPath

import click

from pruneyard.orchestrator.commands.report import check_folders
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.reports.durable import write_durably
from pruneyard.reports.location import Location


def execute(folder: Location, chart: str | None, kind: str | None, metric: str | None, out: Location) -> int:
    """Write one chart of DIR to a file, whose ending chooses the format: .svg, .pdf or .png."""
    if chart is not None and kind is not None:
        raise UsageError(f"--kind {kind}: CHART {chart} is given, too; give one of them")
    chart = chart or kind
    from pruneyard.reports.charts.files import FORMATS, content

    form = PurePosixPath(str(out)).suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise UsageError(f"--out {out}: must end in one of {', '.join(f'.{name}' for name in FORMATS)}")
    (checked,) = check_folders([folder])
    write_durably(out, content(Results(checked).plot(chart, metric=metric), form))
    click.echo(out)
    return 0
