"""Rows are written and read back; damaged, foreign and newer files are handled as documented."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_study import metric, record

from pruneyard.reports import parquet, records
from pruneyard.reports.attempt import Attempt, attempt_of, decode_record, encode_record
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.parquet import NewerSchemaError
from pruneyard.reports.records import CurveRow, Status, schema
from pruneyard.reports.store import Store

LATER = ["peak_memory_bytes", "identity_json", "data_fingerprint"]


@pytest.fixture
def store(tmp_path):
    return Store(RunFolder(tmp_path))


def test_an_empty_folder_has_empty_tables_of_the_documented_schema(store):
    assert store.runs().schema.equals(schema("runs"))
    assert store.metrics().schema.equals(schema("metrics"))
    assert store.curves().schema.equals(schema("curves"))
    assert store.runs().num_rows == 0
    assert store.statuses() == {}
    store.compact()
    assert not store.folder.table("runs").exists()


def test_rows_come_back_as_they_were_written(store):
    run = record(error="Zeile\n\u2028\0\U0001f600 </script>", status=Status.FAILED, ipc=10, density=None)
    curve = CurveRow(name="density", step=3, key="0.weight", y=0.25)
    store.write(run, [metric(0.5), metric(math.nan, name="nll"), metric(-math.inf, name="x")], [curve])
    (row,) = store.runs().to_pylist()
    assert row == {name: getattr(run, name) for name in schema("runs").names}
    values = store.metrics().column("value").to_pylist()
    assert values[0] == 0.5
    assert math.isnan(values[1])
    assert values[2] == -math.inf
    (point,) = store.curves().to_pylist()
    assert point == {
        "run_key": run.run_key,
        "attempt": 1,
        "name": "density",
        "step": 3,
        "key": "0.weight",
        "x": None,
        "y": 0.25,
        "count": None,
    }


def test_times_are_stored_in_utc_for_any_time_zone(store):
    noon = datetime(2025, 6, 1, 12, tzinfo=UTC)
    store.write(record(started_at=noon.astimezone(timezone(timedelta(hours=9)))), [], [])
    assert store.runs().column("started_at").to_pylist() == [noon]


def test_no_file_is_written_for_a_table_without_rows(store):
    store.write(record(), [], [])
    assert not store.folder.table("metrics").exists()
    assert [path.name for path in store.folder.table("runs").iterdir()] == ["0123456789ab-1.parquet"]


def test_a_run_row_is_not_written_when_its_rows_cannot_be(store):
    with pytest.raises(TypeError, match="value of metrics is no double: must be real number, not str"):
        store.write(record(), [metric("high")], [])  # type: ignore[arg-type]
    assert store.runs().num_rows == 0


def test_a_null_where_none_is_allowed_is_refused(store):
    with pytest.raises(ValueError, match="seed of runs is None"):
        store.write(record(seed=None), [], [])


def test_the_newest_attempt_counts(store):
    store.write(record(status=Status.INTERRUPTED), [metric(0.1)], [])
    store.write(record(attempt=10), [metric(0.2)], [])
    store.write(record(attempt=9, status=Status.FAILED), [], [])
    assert store.runs().column("attempt").to_pylist() == [10]
    assert sorted(store.runs(latest=False).column("attempt").to_pylist()) == [1, 9, 10]
    assert store.statuses() == {"0123456789ab": (Status.COMPLETED, 10)}
    assert store.metrics().num_rows == 2


def test_any_parquet_reader_can_open_a_folder_of_runs(store):
    for number in range(3):
        store.write(record(f"key{number}"), [metric(0.5)], [])
    assert len(pq.read_table(store.folder.table("runs"))) == 3


def test_descriptions_travel_with_the_file(store):
    store.write(record(), [], [])
    (path,) = store.folder.table("runs").iterdir()
    assert b"reproduce" not in path.read_bytes()
    assert b"seed of every random stream" in pq.read_schema(path).field("seed").metadata[b"description"]


def test_compaction_keeps_every_row_and_may_be_repeated(store):
    for number in range(7):
        store.write(record(f"key{number}"), [metric(number / 10), metric(0.0)], [])
    before = [table.to_pylist() for table in (store.runs(), store.metrics())]
    for _ in range(2):
        store.compact()
        assert [table.to_pylist() for table in (store.runs(), store.metrics())] == before
        assert len(list(store.folder.table("runs").iterdir())) == 1
    store.write(record("key9"), [metric(0.9)], [])
    store.compact()
    assert store.runs().num_rows == 8
    assert len(list(store.folder.table("runs").iterdir())) == 1


def test_compaction_makes_files_of_about_a_hundred_attempts(store):
    for number in range(230):
        store.write(record(f"key{number}"), [], [])
    store.compact()
    sizes = sorted(pq.read_metadata(path).num_rows for path in store.folder.table("runs").iterdir())
    assert sizes == [30, 100, 100]
    assert len(store.statuses()) == 230


def test_a_compaction_killed_before_it_deleted_doubles_nothing(store, monkeypatch):
    for number in range(5):
        store.write(record(f"key{number}"), [metric(0.5), metric(0.6)], [])
    monkeypatch.setattr("pathlib.Path.unlink", lambda path, missing_ok=False: None)
    store.compact()
    monkeypatch.undo()
    assert len(list(store.folder.table("metrics").iterdir())) == 6
    assert store.metrics().num_rows == 10
    assert store.runs().num_rows == 5
    (store.folder.table("metrics") / "key3-1.parquet").unlink()
    assert store.metrics().num_rows == 10
    store.compact()
    assert store.metrics().num_rows == 10
    assert len(list(store.folder.table("metrics").iterdir())) == 1


@pytest.mark.parametrize("name", ["half-1.parquet", "foreign-1.parquet", "folder-1.parquet"])
def test_what_is_not_ours_is_skipped_with_a_warning_that_names_it(store, caplog, name):
    store.write(record(), [], [])
    path = store.folder.table("runs") / name
    if name.startswith("half"):
        whole = next(store.folder.table("runs").iterdir()).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif name.startswith("foreign"):
        pq.write_table(pa.table({"run_key": ["x"]}), path)
    else:
        path.mkdir()
    assert store.runs().num_rows == 1
    assert name in caplog.text


def test_leftovers_of_a_killed_writer_are_not_seen(store, caplog):
    store.write(record(), [], [])
    (store.folder.table("runs") / ".key-1.parquet.0f0f").write_bytes(b"half")
    (store.folder.table("runs") / "evil.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert store.runs().num_rows == 1
    assert caplog.text == ""


def test_a_newer_file_is_refused_with_its_name_and_version(store):
    path = store.folder.table("runs") / "key-1.parquet"
    path.parent.mkdir(parents=True)
    table = schema("runs").empty_table().replace_schema_metadata({records.VERSION_KEY: b"99"})
    pq.write_table(table, path)
    with pytest.raises(
        NewerSchemaError, match=r"key-1\.parquet has schema_version 99; this pruneyard reads up to 1"
    ):
        store.runs()


def test_an_older_file_gets_null_for_columns_that_came_later(store):
    store.write(record(peak_memory_bytes=1, identity_json="{}", data_fingerprint="f"), [], [])
    (path,) = store.folder.table("runs").iterdir()
    old = pq.read_table(path).drop_columns(LATER).append_column("dropped", pa.array([1]))
    pq.write_table(old.replace_schema_metadata({records.VERSION_KEY: b"0"}), path)
    (row,) = store.runs().to_pylist()
    assert [row[name] for name in LATER] == [None, None, None]
    assert "dropped" not in row
    assert row["run_key"] == "0123456789ab"


def test_a_file_without_a_needed_column_is_not_ours(store, caplog):
    store.write(record(), [], [])
    (path,) = store.folder.table("runs").iterdir()
    pq.write_table(pq.read_table(path).drop_columns(["status"]), path)
    assert store.runs().num_rows == 0
    assert "lacks column status" in caplog.text


def test_a_failed_write_leaves_no_files(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        parquet.write_part(tmp_path / "a.parquet", schema("runs").empty_table())
    assert list(tmp_path.iterdir()) == []


def test_compacted_files_say_what_they_cover(store):
    for number in range(2):
        store.write(record(f"key{number}"), [], [])
    store.compact()
    (path,) = store.folder.table("runs").iterdir()
    assert json.loads(pq.read_schema(path).metadata[b"units"]) == ["key0-1", "key1-1"]


def test_values_of_numpy_are_recorded_as_those_of_python() -> None:
    row = replace(metric(value=np.float32(0.5)), step=np.int64(3))
    content = encode_record(Attempt(run=record("a"), metrics=[row], curves=[]))
    assert content == encode_record(Attempt(run=record("a"), metrics=[replace(row, value=0.5, step=3)], curves=[]))


def test_an_attempt_is_read_back_from_its_tables_as_it_was() -> None:
    point = CurveRow(name="density", step=3, key="w", x=0.0, y=0.25, count=None)
    attempt = Attempt(run=record("a"), metrics=[metric(value=0.5), metric(value=math.nan)], curves=[point])
    found = attempt_of(decode_record(Path("record-1.json"), encode_record(attempt)))
    assert found.run == attempt.run
    assert found.curves == attempt.curves
    assert [str(row) for row in found.metrics] == [str(row) for row in attempt.metrics], "nan differs from itself"
