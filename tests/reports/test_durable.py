"""Files that are written together: all of them or no last one, and nothing hidden stays behind."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pruneyard.reports import durable
from pruneyard.reports.durable import FilesTogether, commit_together, drop_left_over, flush_left_over
from pruneyard.reports.storage import StorageError

NAMES = ("a/model", "a/masks", "b/rows", "b/last")


def write_together(files: Iterable[tuple[Path, bytes]]) -> None:
    together = FilesTogether()
    try:
        for path, content in files:
            together.add(path, content)
        together.commit()
    finally:
        together.discard()


def paths_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_written_and_an_older_one_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/last").write_bytes(b"old")
    write_together((tmp_path / name, name.encode()) for name in NAMES)
    assert paths_in(tmp_path) == set(NAMES)
    assert all((tmp_path / name).read_bytes() == name.encode() for name in NAMES)
    write_together([(tmp_path / "alone", b"x")])
    assert (tmp_path / "alone").read_bytes() == b"x"


def test_the_last_file_appears_after_all_others_and_their_names_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace, flush = os.replace, durable._sync

    def renamed(source: Path, target: Path) -> None:
        events.append(target.relative_to(tmp_path).as_posix())
        replace(source, target)

    def flushed(path: Path) -> None:
        events.append("flush file" if path.is_file() else f"flush {path.name}")
        flush(path)

    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(durable, "_sync", flushed)
    write_together((tmp_path / name, b"") for name in NAMES)
    assert events[:4] == ["flush file"] * 4
    assert events[4:7] == list(NAMES[:3])
    assert sorted(events[7:9]) == ["flush a", "flush b"]
    assert events[9:] == [NAMES[3], "flush b"]


@pytest.mark.parametrize("failing", range(len(NAMES)))
def test_a_failure_leaves_no_last_file_and_nothing_hidden(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, done = os.replace, []

    def renamed(source: Path, target: Path) -> None:
        if len(done) == failing:
            raise OSError(28, "No space left on device")
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", renamed)
    with pytest.raises(StorageError, match="no space left"):
        write_together((tmp_path / name, b"") for name in NAMES)
    assert paths_in(tmp_path) == set(NAMES[:failing])


def test_each_content_is_written_before_the_next_is_asked_for(tmp_path: Path) -> None:
    def contents() -> Iterator[tuple[Path, bytes]]:
        for number, name in enumerate(NAMES):
            assert len(paths_in(tmp_path)) == number
            yield tmp_path / name, name.encode()

    write_together(contents())
    assert paths_in(tmp_path) == set(NAMES)


def written_unflushed(folder: Path) -> FilesTogether:
    """Returns files that have appeared, except for the last one."""
    together = FilesTogether()
    for name in ("model", "manifest", "record"):
        together.add(folder / name, name.encode())
    together.appear_unflushed()
    return together


def test_of_files_that_appear_before_they_are_flushed_the_last_one_waits_until_all_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [written_unflushed(tmp_path / name) for name in "ab"]
    assert paths_in(tmp_path) == {
        f"{name}/{file}" for name in "ab" for file in ("model", "manifest", ".record.unflushed")
    }
    flushed: list[str] = []
    flush = durable._sync

    def watched(path: Path) -> None:
        flushed.append(path.relative_to(tmp_path).as_posix())
        assert (tmp_path / "a/record").exists() == (len(flushed) > 8)
        flush(path)

    monkeypatch.setattr(durable, "_sync", watched)
    commit_together(groups)
    assert sorted(flushed[:6]) == sorted(
        f"{name}/{file}" for name in "ab" for file in ("model", "manifest", ".record.unflushed")
    )
    assert sorted(flushed[6:]) == ["a", "a", "b", "b"]
    assert paths_in(tmp_path) == {
        f"{name}/{file}" for name in "ab" for file in ("model", "manifest", "record")
    }
    commit_together(groups)  # what has appeared is done
    assert len(flushed) == 10


def test_what_a_killed_process_left_unflushed_is_finished_or_dropped(tmp_path: Path) -> None:
    for name in "ab":
        written_unflushed(tmp_path / name)
    flush_left_over(tmp_path / "a/record")
    assert paths_in(tmp_path / "a") == {"model", "manifest", "record"}
    assert (tmp_path / "a/record").read_bytes() == b"record"
    drop_left_over(tmp_path / "b/record")
    flush_left_over(tmp_path / "b/record")
    drop_left_over(tmp_path / "none/record")
    assert paths_in(tmp_path / "b") == {"model", "manifest"}


@pytest.mark.parametrize("turn", range(5))
@pytest.mark.parametrize("first", ["driver", "trial"])
def test_a_driver_and_a_busy_trial_may_let_the_last_file_appear_at_once(
    turn: int, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever begins, the other does all of its work before one of the flushes."""
    group, flush, flushes = written_unflushed(tmp_path), durable._sync, list[Path]()
    work = {"driver": lambda: flush_left_over(tmp_path / "record"), "trial": lambda: commit_together([group])}

    def interrupted(path: Path) -> None:
        flushes.append(path)
        if len(flushes) == turn + 1:
            work["trial" if first == "driver" else "driver"]()
        flush(path)

    monkeypatch.setattr(durable, "_flushing_threads", lambda: InOrder())
    monkeypatch.setattr(durable, "_sync", interrupted)
    work[first]()
    assert len(flushes) > turn
    assert paths_in(tmp_path) == {"model", "manifest", "record"}
    assert (tmp_path / "record").read_bytes() == b"record"


class InOrder:
    """Flushes one by one in this thread."""

    map = staticmethod(map)


def test_a_last_file_that_nobody_let_appear_is_missed(tmp_path: Path) -> None:
    group = written_unflushed(tmp_path)
    drop_left_over(tmp_path / "record")
    with pytest.raises(StorageError, match="no such file"):
        commit_together([group])
    assert paths_in(tmp_path) == {"model", "manifest"}
