"""`pruneyard export`: tables for papers and other programs, and finished networks as files."""

import importlib
from pathlib import Path

import click
import pandas as pd

from pruneyard.orchestrator.artifacts.run_keys import full_run_key
from pruneyard.orchestrator.commands.report import check_folders
from pruneyard.orchestrator.commands.result_verbs import TRACKERS
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.reports.durable import write_durably
from pruneyard.reports.export import FORMATS, export
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.study import Study
from pruneyard.reports.tables import best_places
from pruneyard.workloads.plugins import names
from pruneyard.workloads.user_code.nearest import nearest

TABLES = ("summary", "runs", "metrics", "curves", "latency")
NETWORK_FORMATS = names("deploy.formats")


def execute(
    folder: Location, form: str | None, table: str | None, columns: str | None, network: str | None, out: Location | None
) -> int:
    """Print one table of DIR, or write the network of one of its runs to a file.

    A network is written only after the exported one gave the outputs of the dense one.
    """
    (checked,) = check_folders([folder])
    if network is not None:
        _check_choice(form, NETWORK_FORMATS, "--network")
        if table is not None or columns is not None or out is None:
            raise UsageError("--network: needs --out FILE, and goes with no --table and no --columns")
        return _write_network(RunFolder(checked), network, form or "dense", out)
    if form in TRACKERS:
        if table is not None or columns is not None or out is None:
            raise UsageError(f"--format {form}: writes all runs; needs --out DIR, and goes with no --table and no --columns")
        return _write_for_tracker(checked, form, out)
    _check_choice(form, FORMATS, "a table")
    results = Results(checked)
    if table in (None, "summary"):
        text = export(_summary(results, columns), form or "csv", best=best_places(Study.read([checked])))
    elif columns is not None:
        raise UsageError(f"--columns: only of the summary, not of --table {table}")
    else:
        text = export(getattr(results, table)(), form or "csv")
    if out is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        write_durably(out, text.encode())
        click.echo(out)
    return 0


def _write_for_tracker(folder: Location, form: str, out: Location) -> int:
    if not isinstance(out, Path):
        raise UsageError(f"--out {out}: the package {form} writes to folders of this machine only")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"--out {out}: is not empty; the runs would be there twice")
    module = importlib.import_module(f"pruneyard.reports.trackers.{form}_files")
    try:
        num = module.write(Study.read([folder]), out)
    except ImportError as error:
        raise UsageError(f"--format {form}: {error}; `pip install 'pruneyard[{form}]'` installs what it needs") from error
    click.echo(f"{num} runs: {out}")
    return 0


def _summary(results: Results, columns: str | None) -> pd.DataFrame:
    """Returns the summary with the chosen columns; a measure takes the ends of its interval along."""
    if columns is None:
        return results.summary(columns="all")
    chosen = [name.strip() for name in columns.split(",")]
    with_ends = [[name, f"{name}_low", f"{name}_high"] if "/" in name else [name] for name in chosen]
    return results.summary(columns=[column for columns in with_ends for column in columns])


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
        raise UsageError(f"--format {form}: {what} is exported as one of {', '.join(allowed)}{nearest(form, allowed)}")
