"""`pruneyard evaluate`: the metrics of files of outputs, as they are and after calibrators."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from pruneyard.orchestrator.commands.console import stdout_console
from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.outputs.calibration import SHOWN, Settings, calibrated
from pruneyard.orchestrator.outputs.evaluation import metrics_on_test
from pruneyard.orchestrator.spec.codec import decode
from pruneyard.orchestrator.spec.overrides import parse_assignment
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.workloads.calibrate.user_outputs.input import Input, tables_by_model
from pruneyard.workloads.metrics.binary import BINARY_METRICS

NONE = "none"


def execute(
    files: Sequence[str],
    calibrators: Sequence[str],
    positive: str | None,
    num_bins: int,
    sets: Sequence[str],
    as_json: bool,
) -> int:
    """Print the metrics of the outputs in FILE: .csv, .parquet or .npz with logits or probabilities and labels.

    The rows are the split test, or all rows if no column names splits.
    """
    given = _nested(dict(parse_assignment(text, option="--set") for text in sets))
    inputs = [_decoded(Input, table, path) for path in files for table in _tables(path, given)]
    number = int(positive) if positive is not None and positive.isdecimal() else positive
    rows: list[dict[str, Any]] = []
    for table in inputs:
        try:
            rows += _rows(table, calibrators, positive=number, num_bins=num_bins)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        stdout_console().print(_table(rows))
        for note in dict.fromkeys(row["note"] for row in rows):
            click.echo(note, err=True)
    return 0


def _tables(path: str, given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yields the table of every model in a file."""
    for tables in tables_by_model({"input": {"path": path, **given}}):
        yield tables["input"]


def _nested(assignments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted keys as tables in tables."""
    found: dict[str, Any] = {}
    for key, value in assignments.items():
        *tables, last = key.split(".")
        table = found
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise UsageError(f"--set {key}: {name} is both a value and a table")
        table[last] = value
    return found


def _decoded(cls: type[Any], table: Mapping[str, Any], origin: str) -> Any:
    log = ProblemLog()
    found = decode(cls, table, "", log)
    if found is None:
        raise SpecError(origin, log.problems)
    return found


def _rows(table: Input, calibrators: Sequence[str], *, positive: int | str | None, num_bins: int) -> Iterator[dict[str, Any]]:
    """Yields the metrics of one model, as it is and after each calibrator. Raises `ValueError` for a file that does not fit."""
    outputs = table.read(positive=positive, cut=bool(calibrators))
    outputs.check_test()
    about = {"file": table.path, "model": table.model_name, "rows": len(outputs.splits["test"]), "note": outputs.note}
    yield {**about, "calibrator": NONE, "metrics": metrics_on_test(outputs, num_bins=num_bins)}
    # A file may have no calib rows, but val rows to fit on.
    fit = "val" if "val" in outputs.splits and "calib" not in outputs.splits else "calib"
    for name in dict.fromkeys(calibrators):
        settings = _decoded(Settings, {"method": name, "num_bins": num_bins, "fit": fit}, table.path)
        after = calibrated(outputs, settings).after
        metrics = {key.removeprefix("test/"): value for key, value in after.items() if key.startswith("test/")}
        yield {**about, "calibrator": name, "metrics": metrics}


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    # The file is shown where the name of the model does not tell.
    several = len({(row["file"], row["model"]) for row in rows}) > len({row["model"] for row in rows})
    metrics = [*SHOWN, *(name for name in BINARY_METRICS if any(name in row["metrics"] for row in rows))]
    for name in (*(("file",) if several else ()), "model", "calibrator"):
        table.add_column(name)
    for name in ("rows", *metrics):
        table.add_column(name, justify="right")
    for row in rows:
        labels = [*([row["file"]] if several else []), row["model"], row["calibrator"], f"{row['rows']:,}"]
        values = [f"{row['metrics'][name]:.4f}" if name in row["metrics"] else "-" for name in metrics]
        table.add_row(*map(Text, [*labels, *values]))
    return table
