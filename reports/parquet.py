"""Reads and writes single Parquet files of the result tables; upgrades files of older schemas on reading."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pruneyard.reports import records
from pruneyard.reports.durable import write_durably
from pruneyard.reports.location import Location

_UNITS_KEY = b"units"


class NewerSchemaError(ValueError):
    """The file was written by a later version of pruneyard than this one."""


class ForeignFileError(ValueError):
    """The file is not a complete Parquet file written by pruneyard."""


@dataclass(frozen=True)
class Part:
    """The rows of one file and the units it covers. A unit is one attempt of one run: `<run_key>-<attempt>`."""

    path: Location
    units: frozenset[str]
    table: pa.Table
    compacted: bool


def write_part(path: Location, table: pa.Table, *, units: Sequence[str] | None = None) -> None:
    """Writes one file. Files of several attempts need `units`; without them the file name is the unit."""
    if units is not None:
        covered = json.dumps(list(units)).encode()
        table = table.replace_schema_metadata({**table.schema.metadata, _UNITS_KEY: covered})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd" if units is not None else "snappy")
    write_durably(path, memoryview(sink.getvalue()))


def read_part(path: Location, name: str, columns: Sequence[str] | None = None) -> Part:
    """Reads one file of table `name` in the current schema, or some of its columns.

    Raises `FileNotFoundError` if it was deleted, `ForeignFileError` if pruneyard did not write it, `NewerSchemaError` if a
    newer version did.
    """
    try:
        # Read at once: compaction may delete the file at any time, and an object store has no file to map.
        content = path.read_bytes()
    except IsADirectoryError as problem:
        raise ForeignFileError(f"{path} is a folder") from problem
    try:
        # One thread per file, since `Store` reads several files at once.
        table = pq.ParquetFile(pa.BufferReader(content)).read(columns=columns, use_threads=False)
    except (pa.ArrowInvalid, OSError) as problem:
        raise ForeignFileError(f"{path} is not a whole Parquet file: {problem}") from problem
    metadata = table.schema.metadata or {}
    _check_version(path, metadata)
    schema = records.schema(name)
    wanted = schema if columns is None else pa.schema([schema.field(column) for column in columns])
    compacted = _UNITS_KEY in metadata
    units = frozenset(json.loads(metadata[_UNITS_KEY])) if compacted else frozenset([path.stem])
    return Part(
        path, units, table if table.schema.equals(wanted) else _upgraded(path, table, wanted), compacted
    )


def _check_version(path: Location, metadata: dict[bytes, bytes]) -> None:
    stated = metadata.get(records.VERSION_KEY, b"").decode()
    if not stated.isdigit():
        raise ForeignFileError(f"{path} states no schema_version")
    if int(stated) > records.SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path} has schema_version {stated}; this pruneyard reads up to {records.SCHEMA_VERSION}: update"
        )


def _upgraded(path: Location, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Fills columns that an older version lacks with nulls; columns added to a schema must therefore be nullable."""
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(_cast(table.column(field.name), field.type))
        elif field.nullable:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            raise ForeignFileError(f"{path} lacks column {field.name}")
    return pa.table(columns, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == kind else column.cast(kind)
