"""One attempt of one job as rows of the tables, and as the record file that lies with the artifacts of its run.

The tables are rebuilt from these files if a Parquet file is damaged or lost.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any

import pyarrow as pa

from pruneyard.reports import records
from pruneyard.reports.columns import column_of
from pruneyard.reports.layout import plain_name
from pruneyard.reports.location import Location
from pruneyard.reports.parquet import DamagedFileError, check_version, upgraded
from pruneyard.reports.records import CurveRow, MetricRow, RunRecord


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """All rows of one attempt of one job."""

    run: RunRecord
    metrics: Sequence[MetricRow]
    curves: Sequence[CurveRow]

    @property
    def owner(self) -> tuple[str, int]:
        """Run key and attempt number."""
        return self.run.run_key, self.run.attempt

    @property
    def unit(self) -> str:
        """The name of the attempt in files."""
        return f"{plain_name(self.run.run_key)}-{self.run.attempt}"


def tables_of(attempts: Sequence[Attempt]) -> dict[str, pa.Table]:
    """Returns the rows by table, in the order in which tables must be written, without empty tables."""
    return {name: _table(name, rows) for name, rows in _rows_of(attempts).items()}


def _rows_of(attempts: Sequence[Attempt]) -> dict[str, list[tuple[Any, ...]]]:
    of_metric, of_curve, of_run = _values_of(MetricRow), _values_of(CurveRow), _values_of(RunRecord)
    rows = {
        "curves": [(*attempt.owner, *of_curve(row)) for attempt in attempts for row in attempt.curves],
        "metrics": [(*attempt.owner, *of_metric(row)) for attempt in attempts for row in attempt.metrics],
        "runs": [of_run(attempt.run) for attempt in attempts],
    }
    return {name: found for name, found in rows.items() if found}


@cache
def _values_of(record: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    # `dataclasses.astuple` would copy every value, and metrics have many rows.
    return attrgetter(*(field.name for field in fields(record)))


def _table(name: str, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    schema = records.schema(name)
    arrays = []
    for values, field in zip(zip(*rows, strict=True), schema, strict=True):
        try:
            arrays.append(column_of(values, field.type))
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{field.name} of {name} is no {field.type}: {error}") from None
    missing = [
        field.name
        for field, array in zip(schema, arrays, strict=True)
        if array.null_count and not field.nullable
    ]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} of {name} is None; only columns documented as nullable may be"
        )
    return pa.table(arrays, schema=schema)


def attempt_of(tables: Mapping[str, pa.Table]) -> Attempt:
    """Returns the attempt of the tables of one record: the inverse of `tables_of` for one attempt."""
    (run,) = tables["runs"].to_pylist()
    return Attempt(
        run=RunRecord(**{**run, "status": records.Status(run["status"])}),
        metrics=[MetricRow(**_without_owner(row)) for row in _rows(tables, "metrics")],
        curves=[CurveRow(**_without_owner(row)) for row in _rows(tables, "curves")],
    )


def _rows(tables: Mapping[str, pa.Table], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tables[name].to_pylist() if name in tables else []
    return found


def _without_owner(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("run_key", "attempt")}


def encode_record(attempt: Attempt) -> bytes:
    """Returns the content of a record file: JSON with the columns of each table and a digest of them."""
    columns = {
        name: {
            column: [None if value is None else encode(value) for value in values]
            for (column, encode), values in zip(_encoders(name), zip(*rows, strict=True), strict=True)
        }
        for name, rows in _rows_of([attempt]).items()
    }
    content = _canonical({"schema_version": records.SCHEMA_VERSION, "tables": columns})
    return b'{"sha256":"%b",%b' % (hashlib.sha256(content).hexdigest().encode(), content[1:])


def decode_record(path: Location, content: bytes) -> dict[str, pa.Table]:
    """Returns the tables of a record file. Raises `DamagedFileError`, or `NewerSchemaError` for a file of a newer version."""
    try:
        record = json.loads(content)
        stated, version = record.pop("sha256"), record["schema_version"]
        if stated != _digest(record):
            raise DamagedFileError(path, "is damaged: it does not have the digest it was written with")
    except (ValueError, KeyError, AttributeError, TypeError) as problem:
        if isinstance(problem, DamagedFileError):
            raise
        raise DamagedFileError(path, f"is no whole record of an attempt: {problem}") from problem
    check_version(path, version)
    return {name: _decoded(path, name, columns) for name, columns in record["tables"].items()}


def _decoded(path: Location, name: str, columns: Mapping[str, list[Any]]) -> pa.Table:
    schema = records.schema(name)
    known = [schema.field(column) for column in columns if column in schema.names]
    arrays = [pa.array([_typed(value, field.type) for value in columns[field.name]], field.type) for field in known]
    return upgraded(path, pa.table(arrays, schema=pa.schema(known, metadata=schema.metadata)), schema)


def _digest(content: Mapping[str, Any]) -> str:
    # JSON gives floats back bit for bit, so what was decoded is encoded to the same text again.
    return hashlib.sha256(_canonical(content)).hexdigest()


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


@cache
def _encoders(name: str) -> Sequence[tuple[str, Callable[[Any], Any]]]:
    """Returns the columns of a table with what makes plain Python values of theirs, which may be those of NumPy."""
    return [(field.name, _encoder(field.type)) for field in records.schema(name)]


def _encoder(kind: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_floating(kind):
        return _plain_number
    if pa.types.is_integer(kind):
        return int
    return datetime.isoformat if pa.types.is_timestamp(kind) else str


def _plain_number(value: Any) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else repr(number)  # JSON has no NaN and no infinities


def _typed(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, str) and pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value)
    return float(value) if isinstance(value, str) and pa.types.is_floating(kind) else value
