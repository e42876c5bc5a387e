"""The data that `pruneyard init --from` writes into a spec: `NAME`, `NAME:PATH`, and `NAME:PATH,KEY=VALUE`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.spec.yaml_document import parse_value

_TABLE = "table"
_TARGETS = ("target", "label", "class", "y")  # usual names of the column of classes; otherwise it is the last one
_ANOTHER_KEY = re.compile(r",(?=\w+=)")


def data_table(given: str) -> dict[str, Any]:
    """Returns the table `data` of a spec; the target of a table is chosen where it is not given.

        data_table("digits")
        data_table("arrays:mine.npz,channels=last")

    Raises `UsageError` for a text of another form, and for a table whose columns cannot be read.
    """
    source, *settings = _ANOTHER_KEY.split(given)
    name, colon, path = source.partition(":")
    if not name or (colon and not path):
        raise UsageError(f"--data {given}: must be a source, as in digits, or a source and a path, as in table:rows.csv")
    table: dict[str, Any] = {"name": name} | ({"path": path} if path else {})
    table |= {key: parse_value(value) for key, _, value in (setting.partition("=") for setting in settings)}
    if name == _TABLE and path and "target" not in table:
        table["target"] = _target(Path(path).expanduser(), given, str(table.get("separator", "")))
    return table


def _target(path: Path, given: str, separator: str) -> str:
    """Returns the column of classes: one with a usual name, or the last one besides that of splits."""
    import pandas as pd
    import pyarrow.parquet as pq

    file = next((found for found in sorted(path.glob("train*")) if found.is_file()), path) if path.is_dir() else path
    try:
        if file.suffix == ".parquet":
            columns = [str(name) for name in pq.read_schema(file).names]
        else:
            columns = list(pd.read_csv(file, nrows=0, sep=separator or ("\t" if file.suffix == ".tsv" else ",")).columns)
    except (OSError, ValueError) as error:
        raise UsageError(f"--data {given}: {file} cannot be read: {error}") from error
    if not columns:
        raise UsageError(f"--data {given}: {file} has no columns")
    last = ([name for name in columns if name != "split"] or columns)[-1]
    return next((name for name in columns if name.lower() in _TARGETS), last)


def check_fits(tables: Mapping[str, Any]) -> None:
    """Raises `UsageError` that names data and network if the data cannot be read, or the jobs of the spec cannot run on it."""
    from pruneyard.orchestrator.spec.load import load_spec

    given = tables["data"]
    try:
        workload: Any = load_spec(tables).jobs[0].workload
        workload.check(workload.data.load())
    except SpecError as error:
        said = "; ".join(f"{problem.key}: {problem.message}" for problem in error.problems)
        raise UsageError(f"data {given}: {said}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"data {given} and model {tables['model']['name']}: {error}") from error
