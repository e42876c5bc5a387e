"""`pruneyard compare`: every setting against a baseline, paired by seed; gates for continuous integration."""

import json
import math
from collections.abc import Sequence

import click
import pandas as pd
from rich.table import Table
from rich.text import Text

from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.commands.report import check_folders
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.reading.comparison import Gate, compared, matched, selection
from pruneyard.reports import formats
from pruneyard.reports.export import export
from pruneyard.reports.location import Location
from pruneyard.reports.study import Study

NUMBERS = ("difference", "won", "p", "FLOPs", "time")
COLUMNS = ("setting", "baseline", "metric", "difference", "won", "p", "FLOPs", "time", "verdict")


def execute(
    folders: Sequence[Location],
    baselines: Sequence[str],
    metrics: Sequence[str],
    wheres: Sequence[str],
    gates: Sequence[str],
    margin: float | None,
    budget: str | None,
    pool: Sequence[str],
    form: str | None,
    as_json: bool,
) -> int:
    """Compare the settings of one or more folders with a baseline, paired by seed. A gate that fails exits with 5."""
    conditions = [Gate.parse(text) for text in gates]
    study = matched(Study.read(check_folders(folders)), budget, pool)
    named = list(dict.fromkeys([*metrics, *(gate.metric for gate in conditions)]))
    table = compared(
        study,
        baseline=selection(study, baselines, option="--baseline") or None,
        metrics=named,
        only=selection(study, wheres, option="--where") or None,
        margin=margin,
    )
    failures = {gate.text: gate.failures(table) for gate in conditions}
    if as_json:
        rows = json.loads(table.to_json(orient="records"))
        gate_failures = [{"gate": text, "failures": lines} for text, lines in failures.items()]
        click.echo(json.dumps({"rows": rows, "gates": gate_failures}, indent=1))
    elif form is not None:
        click.echo(export(table, form, best=_best(table)), nl=False)
    else:
        stdout_console().print(_terminal_table(table))
    for text, lines in failures.items():
        click.echo(f"gate {'failed' if lines else 'holds'}: {text}", err=True)
        for line in lines:
            click.echo(f"  {line}", err=True)
    return ExitCode.GATE if any(failures.values()) else ExitCode.FINISHED


def _best(table: pd.DataFrame) -> set[tuple[int, str]]:
    """Returns the places that formats for people print bold: differences by which a setting is better than the baseline."""
    return {(place, "difference") for place, side in enumerate(table["better"]) if side == "a"}


def _terminal_table(table: pd.DataFrame) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in COLUMNS:
        is_number = name in NUMBERS  # only words may be broken into lines where the terminal is narrow
        shown.add_column(name, justify="right" if is_number else "left", no_wrap=is_number)
    for _, row in table.iterrows():
        mean, half = formats.estimate(row["difference"], row["difference_low"], row["difference_high"])
        won = "" if math.isnan(row["num_won"]) else f"{row['num_won']:.0f}/{row['num_pairs']}"
        texts = [
            row["a"],
            row["b"],
            row["metric"],
            f"{mean} ± {half}" if half else mean,
            won,
            "" if math.isnan(row["p_corrected"]) else f"{row['p_corrected']:.2g}",
            *(_ratio(row[name]) for name in ("flops_ratio", "time_ratio")),
            row["verdict"],
        ]
        shown.add_row(*(Text(text) for text in texts))
    return shown


def _ratio(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}x"
