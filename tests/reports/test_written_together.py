"""Attempts written in one file per table, and folders of files: all of each or none, each once."""

from pathlib import Path

import pytest
from made_up_study import metric, record

from pruneyard.reports.attempt import Attempt, encode_record
from pruneyard.reports.durable import (
    FilesTogether,
    add_folder_durably,
    clear_unfinished,
    write_folders_durably,
)
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store


def attempt(key: str, value: float, number: int = 1) -> Attempt:
    return Attempt(
        run=record(key, attempt=number), metrics=[metric(value), metric(value, name="nll")], curves=[]
    )


def test_attempts_written_together_are_read_as_those_written_alone(tmp_path: Path) -> None:
    together, alone = Store(RunFolder(tmp_path / "together")), Store(RunFolder(tmp_path / "alone"))
    attempts = [attempt(key, value) for key, value in (("a", 0.1), ("b", 0.2), ("c", 0.3))]
    together.write_together(attempts)
    for each in attempts:
        alone.write(each.run, each.metrics, each.curves)
    assert len(list((tmp_path / "together" / "results" / "runs").iterdir())) == 1
    assert not (tmp_path / "together" / "results" / "curves").exists()
    assert together.runs() == alone.runs()
    assert together.metrics().to_pylist() == alone.metrics().to_pylist()
    assert together.statuses() == alone.statuses()


def test_rows_of_a_killed_writer_appear_once_when_other_attempts_are_written_with_them(
    tmp_path: Path,
) -> None:
    """Its metrics stood, its runs did not; the same attempts come again in another file, one of them alone."""
    store = Store(RunFolder(tmp_path))
    store.write_together([attempt("a", 0.1), attempt("b", 0.2), attempt("c", 0.3)])
    (only,) = (tmp_path / "results" / "runs").iterdir()
    only.unlink()
    store.write_together([attempt("a", 0.1), attempt("d", 0.4)])
    store.write_together([attempt("b", 0.2)])
    store.write(*vars(attempt("c", 0.3)).values())
    for _ in range(2):
        assert sorted(store.runs()["run_key"].to_pylist()) == ["a", "b", "c", "d"]
        rows = [(row["run_key"], row["name"], row["value"]) for row in store.metrics().to_pylist()]
        values = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
        assert sorted(rows) == [
            (key, name, value) for key, value in values.items() for name in ("accuracy", "nll")
        ]
        store.compact()


def test_an_attempt_cannot_be_written_twice_in_one_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none may come twice"):
        Store(RunFolder(tmp_path)).write_together([attempt("a", 0.1), attempt("a", 0.2)])


def write_all_but_rows(store: Store, *attempts: Attempt) -> None:
    for each in attempts:
        files = FilesTogether()
        files.add(store.folder.artifact(each.run.run_key) / "model", b"")
        files.add(store.folder.attempt_record(*each.owner), encode_record(each))
        files.appear_unflushed()


def test_what_lacks_only_its_rows_is_finished_and_nothing_else(tmp_path: Path) -> None:
    store = Store(RunFolder(tmp_path))
    ended, failed = attempt("a", 0.1), Attempt(run=record("b", attempt=2, error="why"), metrics=[], curves=[])
    write_all_but_rows(store, ended, failed, attempt("c", 0.3))
    found = store.finish([ended.owner, failed.owner, ("b", 1), ("never-started", 1)])
    assert [each.owner for each in found] == [("a", 1), ("b", 2)]
    assert [list(each.metrics) for each in found] == [list(ended.metrics), []]
    assert sorted(store.statuses()) == ["a", "b"]
    store.write_together([ended, attempt("d", 0.4)])  # the process was not killed, only busy
    for _ in range(2):
        assert sorted(store.runs()["run_key"].to_pylist()) == ["a", "b", "d"]
        assert sorted(store.metrics()["value"].to_pylist()) == [0.1, 0.1, 0.4, 0.4]
        store.compact()
    assert not store.finish([("never-started", 1)])


def test_a_record_that_a_power_failure_cut_off_is_not_taken(tmp_path: Path) -> None:
    store = Store(RunFolder(tmp_path))
    write_all_but_rows(store, attempt("a", 0.1))
    (hidden,) = (tmp_path / "artifacts" / "a").glob(".record*")
    hidden.write_bytes(hidden.read_bytes()[:100])
    assert not store.finish([("a", 1)])
    assert not store.statuses()


def test_jobs_that_never_started_cost_one_listing_when_a_study_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(RunFolder(tmp_path))
    write_all_but_rows(store, attempt("a", 0.1))
    asked: list[Path] = []
    monkeypatch.setattr("pruneyard.reports.store.flush_left_over", asked.append)
    assert not store.finish([("a", 1), *((f"n{number}", 1) for number in range(100))])
    assert [path.parent.name for path in asked] == ["a"]


def test_folders_are_written_completely_and_replace_the_old_ones(tmp_path: Path) -> None:
    parent = tmp_path / "artifacts"
    write_folders_durably(parent, {"a": {"x": b"1", "old": b"2"}, "b": {"x": b"3"}})
    write_folders_durably(parent, {"a": {"x": memoryview(b"4")}})
    assert {
        str(file.relative_to(parent)): file.read_bytes() for file in parent.rglob("*") if file.is_file()
    } == {
        "a/x": b"4",
        "b/x": b"3",
    }
    with pytest.raises(OSError, match="fix the storage"):
        write_folders_durably(parent, {"c": {"x": b"5", "no/such": b"6"}})
    assert sorted(folder.name for folder in parent.iterdir()) == ["a", "b"]


def test_what_a_killed_writer_left_aside_is_cleared(tmp_path: Path) -> None:
    write_folders_durably(tmp_path, {"a": {"x": b"1"}})
    (tmp_path / ".0123" / "b").mkdir(parents=True)
    (tmp_path / ".0123" / "b" / "x").write_bytes(b"2")
    clear_unfinished(tmp_path)
    clear_unfinished(tmp_path / "not there")
    assert [folder.name for folder in tmp_path.iterdir()] == ["a"]


def test_of_two_writers_of_one_folder_the_first_wins_and_nothing_is_left_of_the_other(tmp_path: Path) -> None:
    assert add_folder_durably(tmp_path, "a", {"x": b"1", "sub/y": b"2"})
    assert not add_folder_durably(tmp_path, "a", {"x": b"3"})
    assert {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {
        "a/x": b"1",
        "a/sub/y": b"2",
    }
