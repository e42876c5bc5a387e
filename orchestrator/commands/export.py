"""`pruneyard export`: tables for papers and other programs, and finished networks as files."""

import click

from pruneyard.orchestrator.artifacts.run_keys import full_run_key
from pruneyard.orchestrator.commands.report import check_folders
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.reports.durable import write_durably
from pruneyard.reports.export import FORMATS, export
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.workloads.plugins import names

TABLES = ("summary", "runs", "metrics", "curves", "latency")
NETWORK_FORMATS = names("deploy.formats")


def execute(folder: Location, form: str | None, table: str | None, network: str | None, out: Location | None) -> int:
    """Print one table of DIR, or write the network of one of its runs to a file.

    A network is written only after the exported one gave the outputs of the dense one.
    """
    (checked,) = check_folders([folder])
    if network is not None:
        _check_choice(form, NETWORK_FORMATS, "--network")
        if table is not None or out is None:
            raise UsageError("--network: needs --out FILE, and goes with no --table")
        return _write_network(RunFolder(checked), network, form or "dense", out)
    _check_choice(form, FORMATS, "a table")
    results = Results(checked)
    whole = results.summary(columns="all") if table in (None, "summary") else getattr(results, table)()
    text = export(whole, form or "csv")
    if out is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        write_durably(out, text.encode())
        click.echo(out)
    return 0


def _write_network(folder: RunFolder, key: str, form: str, out: Location) -> int:
    from pruneyard.orchestrator.artifacts.network_export import WrongExportError, export_network

    run_key = full_run_key(folder, key, option="--network")
    try:
        write_durably(out, export_network(folder, run_key, format=form))
    except WrongExportError as error:
        click.echo(f"pruneyard: {run_key} as {form}: {error}; nothing was written", err=True)
        return ExitCode.FAILED
    click.echo(out)
    return ExitCode.FINISHED


def _check_choice(form: str | None, allowed: tuple[str, ...] | list[str], what: str) -> None:
    if form is not None and form not in allowed:
        raise UsageError(f"--format {form}: {what} is exported as one of {', '.join(allowed)}")
