"""Locations of folders, and messages for the errors of the system."""

import errno
import os
import stat
from pathlib import Path

import pytest

from pruneyard.reports.durable import write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import located, remove_tree
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import StorageError, in_words
from pruneyard.testing.cases import each_case


@each_case("text", ["out", "/a/b", "a:b", "C:/x", "s3:/a", "1://a"])
def test_a_path_stays_one(text: str) -> None:
    assert located(text) == Path(text)
    assert located(Path("out")) == Path("out")


def test_a_uri_of_an_object_store_is_a_place_in_it() -> None:
    found = located("s3://bucket/a//b/")
    assert found == ObjectPath("bucket", "a/b")
    assert located(found) is found
    assert str(found / "c") == "s3://bucket/a/b/c"
    assert str(located("s3://bucket")) == "s3://bucket"
    assert RunFolder("s3://bucket/a").artifact("0a1b") == ObjectPath("bucket", "a/artifacts/0a1b")  # type: ignore[arg-type]


def test_a_uri_of_this_machine_is_its_path() -> None:
    assert located("file:///a/b%20c") == Path("/a/b c")
    assert located("file://localhost/a") == Path("/a")


@each_case(
    ("text", "message"),
    [
        ("gs://bucket/a", "gs:// is no storage that pruneyard knows; give a path, file:// or s3://"),
        ("file://host/a", "must be file:///FOLDER"),
        ("s3:///a", "must be s3://BUCKET/FOLDER"),
        ("s3://b/a", "must be s3://BUCKET/FOLDER"),
        ("s3://bucket/a/../b", "has '.' or '..' in it"),
        ("s3://id:secret@bucket/a", "holds credentials; leave them out"),
        (Path("s3://bucket/a"), "has lost a slash of its URI; give the URI as text"),
    ],
)
def test_what_cannot_be_a_place_is_refused(text: str | Path, message: str) -> None:
    with pytest.raises(ValueError, match="^.*" + message.replace("(", r"\(")) as caught:
        located(text)
    assert "secret" not in str(caught.value)


@each_case(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "no space left on device; free some space there"),
        (errno.EROFS, "read-only file system; make it writable"),
        (errno.EACCES, "permission denied; make it writable"),
        (errno.EIO, "input/output error; fix the storage"),
    ],
)
def test_the_words_for_a_fault_name_the_place_and_what_to_do(number: int, remedy: str) -> None:
    with pytest.raises(StorageError) as caught, in_words("out/a"):
        raise OSError(number, os.strerror(number), "elsewhere")
    assert str(caught.value).startswith(f"out/a: {remedy}")
    assert "give the same command again: what is finished is kept" in str(caught.value)


def test_messages_are_not_repeated() -> None:
    with pytest.raises(StorageError, match=r"^once$"), in_words("out"), in_words("out/a"):
        raise StorageError("once")


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="a file stands where a folder must"):
        write_durably(tmp_path / "file" / "a", b"")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_tree_is_removed_or_was_not_there(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located("~/out") == tmp_path / "out"
    assert located(Path("~/out")) == tmp_path / "out"
    assert located("out/~") == Path("out/~")


def test_a_mount_that_cannot_flush_a_folder_holds_results_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Some network mounts answer EINVAL or ENOTSUP to fsync of a folder; any other fault, and one of a file, still stops."""
    flush = os.fsync

    def refuse(number: int, *, folders_only: bool, descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) or not folders_only:
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    for number in (errno.EINVAL, errno.ENOTSUP):
        monkeypatch.setattr(os, "fsync", lambda fd, number=number: refuse(number, folders_only=True, descriptor=fd))
        write_durably(tmp_path / "file", b"content")
        assert (tmp_path / "file").read_bytes() == b"content"
    for number, folders_only in ((errno.EIO, True), (errno.EINVAL, False)):
        monkeypatch.setattr(
            os, "fsync", lambda fd, n=number, o=folders_only: refuse(n, folders_only=o, descriptor=fd)
        )
        with pytest.raises(StorageError):
            write_durably(tmp_path / "other", b"content")
