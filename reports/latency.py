"""Reads and writes the table `latency` of a folder: one small file per row, so a new measurement replaces the old one."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import astuple, fields

import pandas as pd
import pyarrow as pa

from pruneyard.reports import records
from pruneyard.reports.layout import RunFolder, plain_name
from pruneyard.reports.parquet import ForeignFileError, read_part, write_part
from pruneyard.reports.records import LatencyRow

_LOG = logging.getLogger(__name__)
_TABLE = "latency"
_KEYS = ("run_key", "format", "batch_size", "threads", "device")


def write_latency(folder: RunFolder, row: LatencyRow) -> None:
    """Adds the row, or replaces that of the same run, format, batch size, threads and device."""
    identity = "\n".join(str(getattr(row, key)) for key in _KEYS)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    schema = records.schema(_TABLE)
    # The schema's columns are the record's fields in their order.
    columns = [pa.array([value], field.type) for value, field in zip(astuple(row), schema, strict=True)]
    path = folder.table(_TABLE) / f"{plain_name(row.run_key)}-{digest}.parquet"
    write_part(path, pa.table(columns, schema=schema))


def read_latency(folder: RunFolder) -> pd.DataFrame:
    """Returns all rows, sorted by run, format, batch size and threads; empty if nothing was measured."""
    tables = [records.schema(_TABLE).empty_table()]
    for path in folder.files_of_table(_TABLE):
        try:
            tables.append(read_part(path, _TABLE).table)
        except ForeignFileError as problem:
            _LOG.warning("skipped: %s", problem)
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    assert list(frame.columns) == [field.name for field in fields(LatencyRow)]
    return frame.sort_values(list(_KEYS), kind="stable").reset_index(drop=True)
