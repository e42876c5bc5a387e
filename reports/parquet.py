"""Encodes and decodes Parquet with checksums, and reads and writes single files of the result tables.

Every page has a checksum, which any Parquet reader can verify. The footer has none in the format, so the file's metadata also
hold a CRC-32 of all its bytes. Files of older schemas are upgraded on reading.
"""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pruneyard.reports import records
from pruneyard.reports.durable import write_durably
from pruneyard.reports.location import Location

_UNITS_KEY = b"units"
_CRC_KEY = "pruneyard.crc32"
_CRC_PLACE = b"0" * 8  # stands for the checksum while the checksum is computed
# Thrift's compact protocol writes the value as a tag for binary, a length and the bytes.
_CRC = re.compile(re.escape(_CRC_KEY.encode()) + rb"\x18\x08([0-9a-f]{8})")


class NewerSchemaError(ValueError):
    """The file was written by a later version of pruneyard than this one."""


class ForeignFileError(ValueError):
    """The file is not a complete Parquet file written by pruneyard."""


class DamagedFileError(ForeignFileError):
    """The file `path` is truncated, or its bytes are not those that were written."""

    def __init__(self, path: Location, message: str) -> None:
        super().__init__(f"{path} {message}")
        self.path = path


@dataclass(frozen=True)
class Part:
    """The rows of one file and the units it covers. A unit is one attempt of one run: `<run_key>-<attempt>`."""

    path: Location
    units: frozenset[str]
    table: pa.Table
    compacted: bool


def write_part(path: Location, table: pa.Table, *, units: Sequence[str] | None = None) -> None:
    """Writes one file. Files of several attempts need `units`; without them the file name is the unit."""
    write_durably(path, encode_part(table, units=units))


def encode_part(table: pa.Table, *, units: Sequence[str] | None = None) -> memoryview:
    """Returns the bytes of such a file."""
    if units is not None:
        covered = json.dumps(list(units)).encode()
        table = table.replace_schema_metadata({**table.schema.metadata, _UNITS_KEY: covered})
    return encode_table(table, compression="zstd" if units is not None else "snappy")


def encode_table(table: pa.Table, *, compression: str, repetitive: bool | list[str] = True) -> memoryview:
    """Returns the bytes of a Parquet file with a checksum for each page and one for the whole file.

    repetitive: the columns whose different values are stored once each, or whether all are.
    """
    sink, options = pa.BufferOutputStream(), {"compression": compression, "use_dictionary": repetitive}
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=True, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_CRC_KEY: _CRC_PLACE.decode()})
    content = bytearray(memoryview(sink.getvalue()))
    # The last match: the metadata are at the end, and a cell may hold the same text.
    start, end = [match.span(1) for match in _CRC.finditer(content)][-1]
    content[start:end] = b"%08x" % zlib.crc32(content)
    return memoryview(content)


def decode_table(path: Location, content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns the table in the bytes of the file `path`. Raises `DamagedFileError`; files without checksums are accepted."""
    stated = list(_CRC.finditer(content))
    if stated:
        start, end = stated[-1].span(1)
        found = zlib.crc32(memoryview(content)[end:], zlib.crc32(_CRC_PLACE, zlib.crc32(memoryview(content)[:start])))
        if found != int(stated[-1][1], 16):
            raise DamagedFileError(path, "is damaged: its bytes do not have the checksum it was written with")
    try:
        # One thread per file, since `Store` reads several files at once.
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as problem:
        raise DamagedFileError(path, f"is not a whole Parquet file: {problem}") from problem
    metadata = table.schema.metadata or {}
    return table.replace_schema_metadata({key: value for key, value in metadata.items() if key != _CRC_KEY.encode()})


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
    table = decode_table(path, content, columns)
    metadata = table.schema.metadata or {}
    _check_version(path, metadata)
    schema = records.schema(name)
    wanted = schema if columns is None else pa.schema([schema.field(column) for column in columns])
    compacted = _UNITS_KEY in metadata
    units = frozenset(json.loads(metadata[_UNITS_KEY])) if compacted else frozenset([path.stem])
    return Part(path, units, upgraded(path, table, wanted), compacted)


def _check_version(path: Location, metadata: dict[bytes, bytes]) -> None:
    stated = metadata.get(records.VERSION_KEY, b"").decode()
    if not stated.isdigit():
        raise ForeignFileError(f"{path} states no schema_version")
    check_version(path, int(stated))


def check_version(path: Location, stated: int) -> None:
    """Raises `NewerSchemaError` if the file was written by a newer version."""
    if stated > records.SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path} has schema_version {stated}; this pruneyard reads up to {records.SCHEMA_VERSION}: update"
        )


def upgraded(path: Location, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Fills columns that an older version lacks with nulls; columns added to a schema must therefore be nullable."""
    if table.schema.equals(schema):
        return table
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
