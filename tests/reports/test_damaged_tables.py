"""A flipped byte, a cut file or a deleted one costs no row: damage is noticed, and the rows come from the records."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_study import metric, record

from pruneyard.reports.attempt import Attempt, decode_record, encode_record
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.parquet import DamagedFileError, decode_table, encode_table
from pruneyard.reports.records import CurveRow, Status
from pruneyard.reports.store import Store

TABLES = ("runs", "metrics", "curves")
HERE = Path("some.parquet")


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Writes four attempts of three runs to one file a table; one has values that JSON cannot express."""
    store = Store(RunFolder(tmp_path))
    odd = [metric(math.nan), metric(-math.inf, name="nll"), metric(0.1 + 0.2, name="ece")]
    points = [
        CurveRow(name="density", step=3, key="0.weight", y=1 / 3),
        CurveRow(name="r", step=3, key="test", x=0.5, y=1.0, count=7),
    ]
    store.write(record("a", status=Status.INTERRUPTED, error="Zeile\n\u2028\0"), [metric(0.5)], [])
    store.write(record("a", attempt=2, ipc=None, density=0.1), odd, points)
    store.write(record("b", seed=1), [metric(0.25)], points[:1])
    store.write(record("c", status=Status.PRUNED), [metric(0.75)], [])
    store.compact()
    return store


def contents(store: Store) -> list[str]:
    """Returns every row of every table as text, since NaN differs from itself."""
    tables = (store.runs(latest=False), store.metrics(), store.curves())
    return sorted(repr(row) for table in tables for row in table.to_pylist())


def the_file(store: Store, table: str) -> Path:
    (path,) = store.folder.files_of_table(table)
    assert isinstance(path, Path)
    return path


def test_no_flipped_byte_and_no_cut_gives_another_table() -> None:
    """The page checksums of Parquet alone let some 6% of the bytes pass: the footer has none."""
    metadata = {b"units": json.dumps(["aaaa-1", "bbbb-2"]).encode(), b"schema_version": b"1"}
    table = pa.table({"run_key": ["aaaa", "bbbb"], "value": [0.5, 3.0]}).replace_schema_metadata(metadata)
    content = bytes(encode_table(table, compression="zstd"))
    assert decode_table(HERE, content).equals(table, check_metadata=True)
    for place in range(len(content)):
        try:
            found = decode_table(HERE, flipped(content, place))
        except DamagedFileError:
            continue
        # A flip in the name of the checksum leaves that name and nothing else changed.
        assert found.equals(table), f"byte {place} changes the table"
        assert metadata.items() <= found.schema.metadata.items(), f"byte {place} changes the metadata"
    for length in range(len(content)):
        with pytest.raises(DamagedFileError):
            decode_table(HERE, content[:length])


def test_any_reader_of_parquet_can_verify_the_pages(tmp_path: Path) -> None:
    content = bytes(encode_table(pa.table({"value": [float(i) for i in range(1000)]}), compression="snappy"))
    path = tmp_path / "a.parquet"
    path.write_bytes(flipped(content, 1000))
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


def test_no_flipped_byte_of_a_record_passes() -> None:
    content = encode_record(Attempt(run=record(), metrics=[metric(math.nan), metric(0.3)], curves=[]))
    for place in range(len(content)):
        with pytest.raises(DamagedFileError):
            decode_record(HERE, flipped(content, place))


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_a_damaged_file_are_read_from_the_records(
    store: Store, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, path = contents(store), the_file(store, table)
    content = path.read_bytes()
    for damaged in (flipped(content, len(content) // 2), content[: len(content) // 3], b""):
        path.write_bytes(damaged)
        caplog.clear()
        assert contents(store) == before
        assert str(path) in caplog.text
        assert f"pruneyard doctor {store.folder.path} --repair" in caplog.text


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_file_is_written_again_and_kept(
    store: Store, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, path = contents(store), the_file(store, table)
    damaged = flipped(path.read_bytes(), 200)
    path.write_bytes(damaged)
    problems = store.problems()
    assert [str(path) in problem for problem in problems] == [True, False]
    assert f"{path.parent} lacks the rows of {4 if table != 'curves' else 2} attempts" in problems[1]
    restored = store.restore()
    assert str(path) in restored.notes[0]
    caplog.clear()
    assert contents(store) == before
    assert caplog.text == ""
    assert (path.parent / f"{path.name}.damaged").read_bytes() == damaged
    assert not store.problems()
    assert not store.restore().notes


def test_a_deleted_file_is_written_again_for_the_runs_that_are_missing(store: Store) -> None:
    before = contents(store)
    for table in TABLES:
        the_file(store, table).unlink()
    assert not store.restore(["unknown"]).notes
    assert store.restore(["a", "b", "c", "never-ran"]).notes
    assert contents(store) == before


def test_rows_without_a_record_are_named_and_nothing_is_touched(store: Store) -> None:
    """As in a folder that an earlier version wrote."""
    for key, attempt in (("b", 1), ("c", 1)):
        store.folder.attempt_record(key, attempt).unlink()
    store.folder.manifest("b").write_text("{}")
    path = the_file(store, "runs")
    path.write_bytes(flipped(path.read_bytes(), 200))
    assert store.restore(["b"]).lost == ["b"]
    assert path.exists()
    assert sorted(store.statuses()) == ["a"]


def test_a_damaged_record_is_named_and_skipped(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    bad = store.folder.attempt_record("b", 1)
    bad.write_bytes(bad.read_bytes()[:-9])
    the_file(store, "runs").write_bytes(b"PAR1")
    assert sorted(store.statuses()) == ["a", "c"]
    assert str(bad) in caplog.text
    assert any(str(bad) in problem for problem in store.problems())
