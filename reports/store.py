"""Reads and writes the tables `runs`, `metrics` and `curves` of one results folder.

Each finished attempt writes one small file per table; short attempts that finish together share one. Compaction merges files
later. Files are immutable, and a file of several attempts lists them. A compacted file is complete before the files that it
replaces are deleted, and readers list the folder until nothing is new, so no reader misses or duplicates a row.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache, partial
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pruneyard.reports import records
from pruneyard.reports.layout import RunFolder, plain_name
from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.parquet import ForeignFileError, Part, read_part, write_part
from pruneyard.reports.records import CurveRow, MetricRow, RunRecord, Status

_LOG = logging.getLogger(__name__)
_TABLES = ("runs", "metrics", "curves")
_ATTEMPTS_PER_FILE = 100
_READERS = 4
_OBJECT_STORE_READERS = 16  # more threads, because each file is a network request


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


class Store:
    """Reads and writes the tables `runs`, `metrics` and `curves` of one folder.

    An attempt has one writer, which writes it once when it ends; different attempts may be written at once.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def write(self, run: RunRecord, metrics: Sequence[MetricRow], curves: Sequence[CurveRow]) -> None:
        """Adds one attempt. The row of `runs` is written last: if it exists, all other rows exist too."""
        attempt = Attempt(run=run, metrics=metrics, curves=curves)
        for name, rows in _rows([attempt]).items():
            write_part(self.folder.table(name) / f"{_unit(attempt)}.parquet", _table(name, rows))

    def write_together(self, attempts: Sequence[Attempt]) -> None:
        """Adds several attempts with one file per table; if the writer is killed, either all or none are added."""
        units = sorted(_unit(attempt) for attempt in attempts)
        if len(set(units)) < len(units):
            raise ValueError(f"attempts are {units}; none may come twice")
        for name, rows in _rows(attempts).items():
            write_part(self._path_of(name, "together", units), _table(name, rows), units=units)

    def _path_of(self, name: str, what: str, units: Sequence[str]) -> Location:
        # The name follows from the attempts, so writing the same ones again replaces the file.
        digest = hashlib.sha256("\n".join(units).encode()).hexdigest()[:16]
        return self.folder.table(name) / f"{what}-{digest}.parquet"

    def runs(self, *, latest: bool = True) -> pa.Table:
        """Returns one row per run (its newest attempt), or per attempt if `latest` is False, ordered by start time."""
        table = self._read("runs")
        order = [("started_at", "ascending"), ("run_key", "ascending"), ("attempt", "ascending")]
        return (_newest(table) if latest else table).sort_by(order)

    def metrics(self) -> pa.Table:
        """Returns all metric rows of all attempts."""
        return self._read("metrics")

    def curves(self) -> pa.Table:
        """Returns all curve rows of all attempts."""
        return self._read("curves")

    def statuses(self) -> dict[str, tuple[Status, int]]:
        """Returns status and number of every run's newest attempt, by run key."""
        table = _newest(self._read("runs", ["run_key", "attempt", "status"]))
        keys, attempts, statuses = (
            table.column(name).to_pylist() for name in ("run_key", "attempt", "status")
        )
        return {
            key: (Status(status), attempt)
            for key, status, attempt in zip(keys, statuses, attempts, strict=True)
        }

    def compact(self) -> None:
        """Merges small files into files of about a hundred attempts. It is safe to repeat or to kill."""
        for name in _TABLES:
            parts = self._parts(name)
            small = [part for part in parts if len(part.units) < _ATTEMPTS_PER_FILE // 2]
            for group in _groups(small):
                self._merge(name, group)

    def _merge(self, name: str, parts: Sequence[Part]) -> None:
        units = sorted(frozenset[str]().union(*(part.units for part in parts)))
        target = self._path_of(name, "compacted", units)
        write_part(target, _joined(name, parts), units=units)
        for part in parts:
            # A repeated merge of the same attempts writes to the same name.
            if part.path != target:
                part.path.unlink(missing_ok=True)

    def _read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        return _joined(name, self._parts(name, columns), columns)

    def _parts(self, name: str, columns: Sequence[str] | None = None) -> list[Part]:
        """Reads every file of a table. Lists until nothing is new, because rows of a deleted file are in a compacted one."""
        seen: dict[Location, Part | None] = {}
        with ThreadPoolExecutor(_OBJECT_STORE_READERS if isinstance(self.folder.path, ObjectPath) else _READERS) as pool:
            while fresh := [path for path in self.folder.files_of_table(name) if path not in seen]:
                found = pool.map(partial(_read_if_ours, name=name, columns=columns), fresh)
                seen.update(zip(fresh, found, strict=True))
        return [part for part in seen.values() if part is not None]


def _read_if_ours(path: Location, *, name: str, columns: Sequence[str] | None) -> Part | None:
    try:
        return read_part(path, name, columns)
    except FileNotFoundError:
        return None  # compacted since it was listed
    except ForeignFileError as problem:
        _LOG.warning("skipped: %s", problem)
        return None


def _unit(attempt: Attempt) -> str:
    key, number = attempt.owner
    return f"{plain_name(key)}-{number}"


def _rows(attempts: Sequence[Attempt]) -> dict[str, list[tuple[Any, ...]]]:
    """Returns rows by table, in the order in which tables must be written, without empty tables."""
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
    """Returns the rows of all parts, each attempt from one part only, preferably its own file."""
    taken: set[str] = set()
    tables = []
    for part in sorted(parts, key=lambda part: (part.compacted, str(part.path))):
        fresh = part.units - taken
        tables.append(part.table if len(fresh) == len(part.units) else _rows_of(part.table, fresh))
        taken |= part.units
    schema = records.schema(name)
    empty = schema.empty_table() if columns is None else schema.empty_table().select(list(columns))
    return pa.concat_tables([empty, *tables]).unify_dictionaries().combine_chunks()


def _rows_of(table: pa.Table, units: frozenset[str]) -> pa.Table:
    keys = table.column("run_key").cast(pa.string())
    # Spells units as `_unit` does.
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
    """Groups parts, in order, to about a hundred attempts each; single parts are left out."""
    groups: list[list[Part]] = [[]]
    size = 0
    # By name, so that a compaction that was killed makes the same groups, and so the same files, again.
    for part in sorted(parts, key=lambda part: str(part.path)):
        if size + len(part.units) > _ATTEMPTS_PER_FILE:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += len(part.units)
    return [group for group in groups if len(group) > 1]
