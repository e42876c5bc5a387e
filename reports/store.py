"""Reads and writes the tables `runs`, `metrics` and `curves` of one results folder.

Each finished attempt writes one small file per table; short attempts that finish together share one. Compaction merges files
later. Files are immutable, and a file of several attempts lists them. A compacted file is complete before the files that it
replaces are deleted, and readers list the folder until nothing is new, so no reader misses or duplicates a row. If a file is
damaged, its rows are read from the records that lie with the artifacts.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pruneyard.reports import records
from pruneyard.reports.attempt import Attempt, attempt_of, decode_record, encode_record, tables_of
from pruneyard.reports.data_record import data_records
from pruneyard.reports.durable import FilesTogether, flush_left_over, write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.parquet import (
    DamagedFileError,
    ForeignFileError,
    Part,
    encode_part,
    read_part,
    write_part,
)
from pruneyard.reports.records import CurveRow, MetricRow, RunRecord, Status

_LOG = logging.getLogger(__name__)
_TABLES = ("runs", "metrics", "curves")
_ATTEMPTS_PER_FILE = 100
_READERS = 4
_OBJECT_STORE_READERS = 16  # more threads, because each file is a network request


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The outcome of `Store.restore`.

    Args:
        notes: a sentence for each file that was damaged or written again.
        lost: the finished runs whose rows cannot be restored, because an earlier version wrote no record of them.
    """

    notes: Sequence[str] = ()
    lost: Sequence[str] = ()

    @property
    def refusal(self) -> str:
        """Why nothing was changed, and what to do; empty if all could be restored."""
        if not self.lost:
            return ""
        return (
            f"a damaged file holds rows of {len(self.lost)} finished runs, {self.lost[0]} first, of which an earlier version "
            "wrote no record: put a copy of the file back, or delete it to run them again"
        )


class Store:
    """Reads and writes the tables `runs`, `metrics` and `curves` of one folder.

    An attempt has one writer, which writes it once when it ends; different attempts may be written at once.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def write(
        self,
        run: RunRecord,
        metrics: Sequence[MetricRow],
        curves: Sequence[CurveRow],
        *,
        files: FilesTogether | None = None,
    ) -> None:
        """Adds one attempt. Its row of `runs` is written last: if that exists, all else exists too.

        files: other files of the attempt, which appear before its record; they are flushed together.
        """
        attempt, files = Attempt(run=run, metrics=metrics, curves=curves), files or FilesTogether()
        tables = tables_of([attempt])
        try:
            files.add(self.folder.attempt_record(*attempt.owner), encode_record(attempt))
            for name, table in tables.items():
                files.add(self.folder.table(name) / f"{attempt.unit}.parquet", encode_part(table))
            files.commit()
        # Also for KeyboardInterrupt: no hidden file may stay behind.
        except BaseException:
            files.discard()
            raise

    def write_together(self, attempts: Sequence[Attempt]) -> None:
        """Adds several attempts with one file per table; if the writer is killed, either all or none are added.

        The caller writes their records, together with the other files of their runs.
        """
        units = sorted(attempt.unit for attempt in attempts)
        if len(set(units)) < len(units):
            raise ValueError(f"attempts are {units}; none may come twice")
        for name, table in tables_of(attempts).items():
            write_part(self._path_of(name, "together", units), table, units=units)

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

    def data_records(self) -> dict[str, dict[str, str]]:
        """Returns the data that every run's newest attempt was computed on, by run key; see `data_record.data_records`."""
        table = _newest(self._read("runs", ["run_key", "attempt", "data_read", "data_fingerprint", "parent_key"]))
        keys, _, *columns = (column.to_pylist() for column in table.columns)
        return dict(zip(keys, data_records(*columns), strict=True))

    def compact(self) -> None:
        """Merges small files into files of about a hundred attempts, and writes the view `final`. Safe to repeat or to kill."""
        # Here, because it loads pandas, which other users of the store do without.
        from pruneyard.reports.final_table import write_final_table

        for name in _TABLES:
            parts, _ = self._parts(name)
            small = [part for part in parts if len(part.units) < _ATTEMPTS_PER_FILE // 2]
            for group in _groups(small):
                self._merge(name, group)
        write_final_table(self.folder, self.runs(), self.metrics())

    def _merge(self, name: str, parts: Sequence[Part]) -> None:
        units = sorted(_covered(parts))
        target = self._path_of(name, "compacted", units)
        write_part(target, _joined(name, parts), units=units)
        for part in parts:
            # A repeated merge of the same attempts writes to the same name.
            if part.path != target:
                part.path.unlink(missing_ok=True)

    def restore(self, run_keys: Iterable[str] = ()) -> Restored:
        """Writes the rows that damaged files held again, from the records of the attempts. No other process may be writing.

        Damaged files are kept under another name. `run_keys` are runs without a row: those that have a record get it back. If
        rows of finished runs would be lost, nothing is changed.
        """
        found = {name: self._parts(name) for name in _TABLES}
        damaged = [problem for _, problems in found.values() for problem in problems]
        wanted = set(run_keys)
        keys = [key for key in self.folder.runs_with_artifacts() if damaged or key in wanted] if damaged or wanted else []
        if damaged and (lost := self._lost(keys)):
            return Restored(lost=lost)
        notes = []
        # `runs` comes last, as in `write`.
        for name in reversed(_TABLES):
            parts, problems = found[name]
            tables = self._recorded(name, keys, _covered(parts))
            for problem in problems:
                write_durably(problem.path.parent / f"{problem.path.name}.damaged", problem.path.read_bytes())
                notes.append(f"{problem}; it is kept as {problem.path.name}.damaged")
            target = self._write_recorded(name, tables)
            if tables:
                notes.append(f"{target} has the rows of {len(tables)} attempts, from their records in {self.folder.artifacts}")
            for problem in problems:
                if problem.path != target:
                    problem.path.unlink(missing_ok=True)
        return Restored(notes=notes)

    def finish(self, owners: Iterable[tuple[str, int]]) -> list[Attempt]:
        """Adds the rows of those attempts of which a process has written everything but rows, and returns these attempts.

        The process was killed, or will add the same rows later. owners: run keys and numbers of attempts without a row.
        """
        existing = frozenset(self.folder.runs_with_artifacts())  # one listing: most attempts may not have started
        records = [self.folder.attempt_record(*owner) for owner in owners]
        records = [path for path in records if path.parent.name in existing]
        for path in records:
            flush_left_over(path)
        with ThreadPoolExecutor(self._num_readers) as pool:
            found = [attempt_of(tables) for tables in pool.map(_tables_in, records) if tables]
        if found:
            self.write_together(found)
        return found

    def _write_recorded(self, name: str, tables: Mapping[str, pa.Table]) -> Location:
        units = sorted(tables)
        target = self._path_of(name, "together", units)
        if tables:
            write_part(target, pa.concat_tables(tables.values()).unify_dictionaries(), units=units)
        return target

    def problems(self) -> list[str]:
        """Verifies every file of the tables and every record; returns a sentence for each problem."""
        found, keys = [], self.folder.runs_with_artifacts()
        for name in _TABLES:
            parts, damaged = self._parts(name)
            found += [str(problem) for problem in damaged]
            if lacking := sorted(self._recorded(name, keys, _covered(parts))):
                found.append(
                    f"{self.folder.table(name)} lacks the rows of {len(lacking)} attempts that have a record, {lacking[0]} first"
                )
        for path in [path for key in keys for path in self.folder.attempt_records(key).values()]:
            try:
                decode_record(path, path.read_bytes())
            except DamagedFileError as problem:
                found.append(str(problem))
        return found

    def _lost(self, keys: Sequence[str]) -> list[str]:
        """Returns the finished runs with artifacts that have no row in `runs`, or none in `metrics`."""
        statuses = self.statuses()
        finished = {f"{key}-{attempt}": key for key, (status, attempt) in statuses.items() if status.is_final}
        measured = _covered(self._parts("metrics")[0])
        recorded = {unit for key in keys for unit in self.folder.attempt_records(key)}
        without_metrics = {key for unit, key in finished.items() if unit not in measured | recorded}
        return [key for key in keys if key in without_metrics or (key not in statuses and self.folder.manifest(key).is_file())]

    def _recorded(self, name: str, keys: Sequence[str], known: frozenset[str]) -> dict[str, pa.Table]:
        """Returns the rows of table `name` in the records of these runs, by unit, without the `known` units."""
        paths = {
            unit: path for key in keys for unit, path in self.folder.attempt_records(key).items() if unit not in known
        }
        with ThreadPoolExecutor(self._num_readers) as pool:
            tables = dict(zip(paths, pool.map(partial(_read_record, name=name), paths.values()), strict=True))
        return {unit: table for unit, table in tables.items() if table is not None}

    @property
    def _num_readers(self) -> int:
        return _OBJECT_STORE_READERS if isinstance(self.folder.path, ObjectPath) else _READERS

    def _read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        parts, damaged = self._parts(name, columns)
        if damaged:
            parts += self._rebuilt(name, columns, damaged=damaged, known=_covered(parts))
        return _joined(name, parts, columns)

    def _rebuilt(
        self, name: str, columns: Sequence[str] | None, *, damaged: Sequence[DamagedFileError], known: frozenset[str]
    ) -> list[Part]:
        """Returns the rows of damaged files from the records, which tell nothing about which file held them."""
        tables = self._recorded(name, self.folder.runs_with_artifacts(), known)
        for problem in damaged:
            _LOG.warning("%s", problem)
        _LOG.warning(
            "rows of %d attempts that are in no intact file of %s are read from their records; to write them again: "
            "pruneyard doctor %s --repair",
            len(tables),
            self.folder.table(name),
            self.folder.path,
        )
        return [
            Part(
                path=self.folder.artifacts / unit,
                units=frozenset([unit]),
                table=table if columns is None else table.select(list(columns)),
                compacted=True,
            )
            for unit, table in tables.items()
        ]

    def _parts(self, name: str, columns: Sequence[str] | None = None) -> tuple[list[Part], list[DamagedFileError]]:
        """Reads every file of a table. Lists until nothing is new, because rows of a deleted file are in a compacted one."""
        seen: dict[Location, Part | DamagedFileError | None] = {}
        with ThreadPoolExecutor(self._num_readers) as pool:
            while fresh := [path for path in self.folder.files_of_table(name) if path not in seen]:
                found = pool.map(partial(_read_if_ours, name=name, columns=columns), fresh)
                seen.update(zip(fresh, found, strict=True))
        parts = [part for part in seen.values() if isinstance(part, Part)]
        return parts, [problem for problem in seen.values() if isinstance(problem, DamagedFileError)]


def _covered(parts: Sequence[Part]) -> frozenset[str]:
    return frozenset[str]().union(*(part.units for part in parts))


def _read_record(path: Location, *, name: str) -> pa.Table | None:
    return _tables_in(path).get(name)


def _tables_in(path: Location) -> Mapping[str, pa.Table]:
    """Returns the tables of a record file; none if it is damaged or does not exist."""
    try:
        return decode_record(path, path.read_bytes())
    except DamagedFileError as problem:
        _LOG.warning("skipped: %s", problem)
    except FileNotFoundError:
        pass
    return {}


def _read_if_ours(path: Location, *, name: str, columns: Sequence[str] | None) -> Part | DamagedFileError | None:
    try:
        return read_part(path, name, columns)
    except FileNotFoundError:
        return None  # compacted since it was listed
    except DamagedFileError as problem:
        return problem
    except ForeignFileError as problem:
        _LOG.warning("skipped: %s", problem)
        return None


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
    import pyarrow.compute as pc  # lazily: processes of trials only write, and it takes a hundredth of their start

    keys = table.column("run_key").cast(pa.string())
    # Spells units as `Attempt.unit` does.
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
