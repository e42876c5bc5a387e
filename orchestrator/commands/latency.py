"""`pruneyard latency`: measures the networks of finished runs on this machine, compared with dense kernels."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from pruneyard.orchestrator.artifacts.network_export import (
    LatencyRequest,
    Skipped,
    WrongExportError,
    measure_latency,
    select_networks,
)
from pruneyard.orchestrator.artifacts.run_keys import full_run_key
from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.commands.report import check_folders
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.reports import formats
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.records import LatencyRow
from pruneyard.workloads.plugins import names

BUSY_LOAD = 0.5


def execute(
    folder: Location,
    run_keys: Sequence[str],
    all_seeds: bool,
    chosen: Sequence[str],
    batch_sizes: tuple[int, ...],
    threads: int,
    as_json: bool,
) -> int:
    """Measure the networks of DIR in every format against dense kernels, and store the numbers with the results.

    Use a machine that runs nothing else. Each network takes a few seconds per format and batch size.
    """
    (checked,) = check_folders([folder])
    question = LatencyRequest(
        formats=list(dict.fromkeys(chosen)) or names("deploy.formats"),
        batch_sizes=batch_sizes,
        threads=threads,
    )
    chosen_runs = [full_run_key(RunFolder(checked), key, option="--run-key") for key in run_keys]
    keys = select_networks(RunFolder(checked), run_keys=chosen_runs, every_seed=all_seeds)
    _warn_if_busy()
    rows: list[LatencyRow] = []
    wrong = False
    for place, key in enumerate(keys, start=1):
        try:
            for found in measure_latency(RunFolder(checked), key, question):
                click.echo(f"[{place}/{len(keys)}] {_line(found)}", err=True)
                if isinstance(found, LatencyRow):
                    rows.append(found)
        except WrongExportError as error:
            click.echo(f"[{place}/{len(keys)}] {key}: WRONG, nothing was recorded: {error}", err=True)
            wrong = True
    if not rows and not wrong:
        raise UsageError(f"{folder}: no format can take any of the networks; the reasons stand above")
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1, default=str))
    else:
        stdout_console().print(_table(rows))
    return ExitCode.FAILED if wrong else ExitCode.FINISHED


def _warn_if_busy() -> None:
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > BUSY_LOAD:
        click.echo(
            f"pruneyard: this machine is busy (load {load:.1f}); times will be off, ratios less so", err=True
        )


def _line(found: LatencyRow | Skipped) -> str:
    if isinstance(found, Skipped):
        return f"{found.run_key} {found.format}: skipped, {found.reason}"
    times = f"{formats.brief(found.median_s)}, dense {formats.brief(found.dense_median_s)}"
    # Both run in turns, and the speedup is that of a turn: on a busy machine it need not be the quotient of the medians.
    turns = f"in turns {found.speedup:.2f} times as fast ({found.speedup_low:.2f} to {found.speedup_high:.2f})"
    noise = ", no difference beyond the noise" if found.speedup_low <= 1 <= found.speedup_high else ""
    return f"{found.run_key} {found.format} batch {found.batch_size}: {times}; {turns}{noise}"


def _table(rows: Sequence[LatencyRow]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    headers = (
        "run",
        "density",
        "format",
        "batch",
        "latency",
        "10% to 90%",
        "dense",
        "speedup",
        "by FLOPs",
        "file",
    )
    for place, header in enumerate((*headers, "dense file", "dense layers")):
        # Columns 0, 2 and 11, that is run, format and dense layers, hold text.
        table.add_column(header, justify="right" if place not in (0, 2, 11) else "left")
    for row in rows:
        kernels = json.loads(row.kernels)
        num_dense = sum(kernel.startswith("dense") for kernel in kernels.values())
        texts = [
            row.run_key,
            f"{row.density:.3g}",
            row.format,
            str(row.batch_size),
            formats.brief(row.median_s),
        ]
        texts += [
            f"{formats.brief(row.low_s)} to {formats.brief(row.high_s)}",
            formats.brief(row.dense_median_s),
        ]
        texts += [f"{row.speedup:.2f}", f"{row.dense_forward_flops / row.forward_flops:.3g}"]
        texts += [formats.amount(row.size_bytes, "B"), formats.amount(row.dense_size_bytes, "B")]
        table.add_row(*map(Text, [*texts, f"{num_dense} of {len(kernels)}"]))
    return table
