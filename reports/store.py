"""The three tables of one folder: one small file per finished attempt, compacted later, read as one table.

Files never change once they stand. A compacted file states which attempts it covers and is in place before
the files it replaces are deleted; a reader lists the folder until it shows nothing new. So no reader loses or
doubles a row.
"""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reports import records
from reports.layout import RunFolder, plain_name
from reports.parquet import ForeignFileError, Part, read_part, write_part
from reports.records import CurveRow, MetricRow, RunRecord, Status

_LOG = logging.getLogger(__name__)
_TABLES = ("runs", "metrics", "curves")
_ATTEMPTS_PER_FILE = 100
_READERS = 4


class Store:
    """Reads and writes the tables `runs`, `metrics` and `curves` of one folder.

    An attempt has one writer, which writes it once when it ends; different attempts may be written at once.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def write(self, run: RunRecord, metrics: Sequence[MetricRow], curves: Sequence[CurveRow]) -> None:
        """Add one attempt. The run's own row comes last: where it stands, its other rows stand too."""
        owner = (run.run_key, run.attempt)
        self._write("curves", owner, [(*owner, *_values(row)) for row in curves])
        self._write("metrics", owner, [(*owner, *_values(row)) for row in metrics])
        self._write("runs", owner, [_values(run)])

    def _write(self, name: str, owner: tuple[str, int], rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            path = self.folder.table(name) / f"{plain_name(owner[0])}-{owner[1]}.parquet"
            write_part(path, _table(name, rows))

    def runs(self, *, latest: bool = True) -> pa.Table:
        """One row per attempt, or per run with its newest attempt, in the order in which they started."""
        table = self._read("runs")
        order = [("started_at", "ascending"), ("run_key", "ascending"), ("attempt", "ascending")]
        return (_newest(table) if latest else table).sort_by(order)

    def metrics(self) -> pa.Table:
        """All metric rows of all attempts."""
        return self._read("metrics")

    def curves(self) -> pa.Table:
        """All curve rows of all attempts."""
        return self._read("curves")

    def statuses(self) -> dict[str, tuple[Status, int]]:
        """Status and number of every run's newest attempt, by run key."""
        table = _newest(self._read("runs", ["run_key", "attempt", "status"]))
        keys, attempts, statuses = (
            table.column(name).to_pylist() for name in ("run_key", "attempt", "status")
        )
        return {
            key: (Status(status), attempt)
            for key, status, attempt in zip(keys, statuses, attempts, strict=True)
        }

    def compact(self) -> None:
        """Merge small files into files of about a hundred attempts. May be repeated, or killed halfway."""
        for name in _TABLES:
            parts = self._parts(name)
            small = [part for part in parts if len(part.units) < _ATTEMPTS_PER_FILE // 2]
            for group in _groups(small):
                self._merge(name, group)

    def _merge(self, name: str, parts: Sequence[Part]) -> None:
        units = sorted(frozenset[str]().union(*(part.units for part in parts)))
        digest = hashlib.sha256("\n".join(units).encode()).hexdigest()[:16]
        target = self.folder.table(name) / f"compacted-{digest}.parquet"
        write_part(target, _joined(name, parts), units=units)
        for part in parts:
            if part.path != target:
                part.path.unlink(missing_ok=True)

    def _read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        return _joined(name, self._parts(name, columns), columns)

    def _parts(self, name: str, columns: Sequence[str] | None = None) -> list[Part]:
        """Every file of a table. Lists until nothing is new: a file that went left its rows in another."""
        seen: dict[Path, Part | None] = {}
        with ThreadPoolExecutor(_READERS) as pool:
            while fresh := sorted(set(self.folder.table(name).glob("[!.]*.parquet")) - seen.keys()):
                found = pool.map(partial(_read_if_ours, name=name, columns=columns), fresh)
                seen.update(zip(fresh, found, strict=True))
        return [part for part in seen.values() if part is not None]


def _read_if_ours(path: Path, *, name: str, columns: Sequence[str] | None) -> Part | None:
    try:
        return read_part(path, name, columns)
    except FileNotFoundError:
        return None  # compacted since it was listed
    except ForeignFileError as problem:
        _LOG.warning("skipped: %s", problem)
        return None


def _values(row: RunRecord | MetricRow | CurveRow) -> tuple[Any, ...]:
    return tuple(getattr(row, field.name) for field in fields(row))


def _table(name: str, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    schema = records.schema(name)
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
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


def _joined(name: str, parts: Sequence[Part], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of all parts, each attempt from one part only: its own file if there still is one."""
    taken: set[str] = set()
    tables = []
    for part in sorted(parts, key=lambda part: (part.compacted, part.path)):
        fresh = part.units - taken
        tables.append(part.table if len(fresh) == len(part.units) else _rows_of(part.table, fresh))
        taken |= part.units
    schema = records.schema(name)
    empty = schema.empty_table() if columns is None else schema.empty_table().select(list(columns))
    return pa.concat_tables([empty, *tables]).unify_dictionaries().combine_chunks()


def _rows_of(table: pa.Table, units: frozenset[str]) -> pa.Table:
    keys = table.column("run_key").cast(pa.string())
    names = pc.binary_join_element_wise(keys, table.column("attempt").cast(pa.string()), "-")
    return table.filter(pc.is_in(names, pa.array(sorted(units), pa.string())))


def _newest(runs: pa.Table) -> pa.Table:
    keys, attempts = runs.column("run_key").to_pylist(), runs.column("attempt").to_pylist()
    newest: dict[str, int] = {}
    for key, attempt in zip(keys, attempts, strict=True):
        newest[key] = max(attempt, newest.get(key, attempt))
    kept = [newest[key] == attempt for key, attempt in zip(keys, attempts, strict=True)]
    return runs.filter(pa.array(kept, pa.bool_()))


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts put together, in order, to about a hundred attempts; a part that would stay alone is left."""
    groups: list[list[Part]] = [[]]
    size = 0
    for part in sorted(parts, key=lambda part: part.path):
        if size + len(part.units) > _ATTEMPTS_PER_FILE:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += len(part.units)
    return [group for group in groups if len(group) > 1]
