"""Files that are written together: all of them or no last one, and nothing hidden stays behind."""

import os
from pathlib import Path

import pytest

from pruneyard.reports import durable
from pruneyard.reports.durable import write_all_durably
from pruneyard.reports.storage import StorageError

NAMES = ("a/model", "a/masks", "b/rows", "b/last")


def paths_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_written_and_an_older_one_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/last").write_bytes(b"old")
    write_all_durably((tmp_path / name, name.encode()) for name in NAMES)
    assert paths_in(tmp_path) == set(NAMES)
    assert all((tmp_path / name).read_bytes() == name.encode() for name in NAMES)
    write_all_durably([(tmp_path / "alone", b"x")])
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
    write_all_durably((tmp_path / name, b"") for name in NAMES)
    assert events[:4] == ["flush file"] * 4
    assert events[4:7] == list(NAMES[:3])
    assert sorted(events[7:9]) == ["flush a", "flush b"]
    assert events[9:] == [NAMES[3], "flush b"]


@pytest.mark.parametrize("failing", range(len(NAMES)))
def test_a_failure_leaves_no_last_file_and_nothing_hidden(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, done = os.replace, []

    def renamed(source: Path, target: Path) -> None:
        if len(done) == failing:
            raise OSError(28, "No space left on device")
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", renamed)
    with pytest.raises(StorageError, match="no space left"):
        write_all_durably((tmp_path / name, b"") for name in NAMES)
    assert paths_in(tmp_path) == set(NAMES[:failing])


def test_each_content_is_written_before_the_next_is_asked_for(tmp_path: Path) -> None:
    def contents() -> object:
        for number, name in enumerate(NAMES):
            assert len(paths_in(tmp_path)) == number
            yield tmp_path / name, name.encode()

    write_all_durably(contents())  # type: ignore[arg-type]
    assert paths_in(tmp_path) == set(NAMES)
