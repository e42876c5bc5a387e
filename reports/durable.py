"""Writes files atomically and durably: readers see a complete file or none, even after a power failure."""

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from uuid import uuid4

from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import in_words

Content = bytes | memoryview
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_SYNCING = 8  # threads; a file system commits concurrent fsync calls together


def write_durably(path: Location, content: Content) -> None:
    """Writes a hidden file next to `path`, flushes it to disk and renames it. Replaces an existing file.

    In an object store this is one put. Raises `StorageError` if writing fails; an existing file then stays unchanged.
    """
    if isinstance(path, ObjectPath):
        path.write_bytes(content)
        return
    with in_words(path):
        _write(path, content)


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            # Before the rename: after a power failure, the new name could otherwise stand for an empty file.
            os.fsync(file.fileno())
        os.replace(aside, path)
    # Also for KeyboardInterrupt: no hidden file may stay behind.
    except BaseException:
        _discard(aside)
        raise
    _sync(path.parent)  # a rename is only durable after its folder is flushed


def _aside(path: Path) -> Path:
    """Returns a hidden file in the same folder, since a rename is atomic within one file system only.

    Its name is unique, since several processes may write the file.
    """
    return path.parent / f".{path.name}.{uuid4().hex}"


class FilesTogether:
    """Files that are written under hidden names as they come, and get their own names together.

    In an object store each file is put as it comes.
    """

    def __init__(self) -> None:
        self._written: list[tuple[Path, Path]] = []
        self._folders = set[Path]()  # those that exist by now

    def add(self, path: Location, content: Content) -> None:
        """Writes one more file aside. Raises `StorageError` if writing fails."""
        if isinstance(path, ObjectPath):
            path.write_bytes(content)
            return
        self._written.append((_aside(path), path))
        with in_words(path):
            if path.parent not in self._folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._folders.add(path.parent)
            self._written[-1][0].write_bytes(content)

    def appear_unflushed(self) -> None:
        """Gives all files but the last one their names; that one waits under a hidden name for `commit`.

        Should this process be killed first, `flush_left_over` does the rest.
        """
        if not self._written:
            return
        *others, (aside, last) = self._written
        with in_words(last):
            for hidden, path in others:
                os.replace(hidden, path)
            os.replace(aside, _unflushed(last))
        self._written = [*((path, path) for _, path in others), (_unflushed(last), last)]

    def commit(self) -> None:
        """Lets the files appear; the last one appears only when all others are durable. Raises `StorageError` if that fails."""
        commit_together([self])

    def discard(self) -> None:
        """Deletes the files that have not appeared."""
        for aside, path in self._written:
            if aside != path:
                _discard(aside)
        self._written = []


def commit_together(groups: Iterable[FilesTogether]) -> None:
    """Lets the files of all groups appear as `FilesTogether.commit` does, flushed together."""
    found = [group._written for group in groups if group._written]
    if not found:
        return
    lasts = [files[-1] for files in found]
    others = [file for files in found for file in files[:-1]]
    with in_words(lasts[-1][1]):
        # The contents of all files, then the names of the others, then the last names, each durable before the next begins.
        _sync_hidden([*others, *lasts])
        for aside, path in others:
            if aside != path:
                os.replace(aside, path)
        _sync_all({path.parent for _, path in others})
        for aside, path in lasts:
            _rename_left_over(aside, path)
        _sync_all({path.parent for _, path in lasts})
    for files in found:
        files.clear()


def _sync_hidden(files: Iterable[tuple[Path, Path]]) -> None:
    for _ in _flushing_threads().map(_sync_one_hidden, files):
        pass


def _sync_one_hidden(file: tuple[Path, Path]) -> None:
    aside, path = file
    try:
        _sync(aside)
    except FileNotFoundError:
        _sync(path)  # another process has let it appear by `flush_left_over`


def _rename_left_over(aside: Path, path: Path) -> None:
    try:
        os.replace(aside, path)
    except FileNotFoundError:
        if not path.exists():  # otherwise another process was first
            raise


def flush_left_over(path: Location) -> None:
    """Flushes the folder of `path`, and lets `path` appear if another process had it ready; see `appear_unflushed`.

    That process was killed, or is busy: it may call `commit` at the same time.
    """
    if isinstance(path, ObjectPath) or not _unflushed(path).exists():
        return
    with in_words(path):
        files = (file for file in path.parent.iterdir() if file != _unflushed(path))
        _sync_hidden([*((file, file) for file in files if file.is_file()), (_unflushed(path), path)])
        _sync(path.parent)
        _rename_left_over(_unflushed(path), path)
        _sync(path.parent)


def drop_left_over(path: Location) -> None:
    """Deletes what a killed process had ready for `path`."""
    if not isinstance(path, ObjectPath):
        _discard(_unflushed(path))


def _unflushed(path: Path) -> Path:
    return path.parent / f".{path.name}.unflushed"


def _discard(aside: Path) -> None:
    """Deletes a hidden file, if the disk lets it: what is said is why it was not written, not why it is still there."""
    with suppress(OSError):
        aside.unlink(missing_ok=True)


def write_folders_durably(parent: Location, folders: Mapping[str, Mapping[str, Content]]) -> None:
    """Writes folders of files, by folder and file name; each folder appears complete or not at all.

    They are written to one hidden folder next to them and flushed together. Existing folders are replaced. In an object store
    the files of each folder are put in order: if the last one exists, all do.
    """
    if isinstance(parent, ObjectPath):
        with ThreadPoolExecutor(_SYNCING) as pool:
            # Consumed, because errors of the threads are raised only here.
            for _ in pool.map(partial(_put_folder, parent), folders.items()):
                pass
        return
    with in_words(parent):
        _write_folders(parent, folders)


def add_folder_durably(parent: Location, name: str, files: Mapping[str, Content]) -> bool:
    """Writes one new folder of files, which appears complete or not at all; returns False if it exists by then.

    So of several processes that write the same folder, the first one wins. In an object store the files are put in order: if the
    last one exists, all do, and processes that write at once may mix their files.
    """
    if isinstance(parent, ObjectPath):
        if (parent / name / list(files)[-1]).exists():
            return False
        _put_folder(parent, (name, files))
        return True
    with in_words(parent):
        return _add_folder(parent, name, files)


def _add_folder(parent: Path, name: str, files: Mapping[str, Content]) -> bool:
    aside = parent / f".{uuid4().hex}"
    try:
        for file, content in files.items():
            path = aside / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _sync_all(path for path in (*aside.rglob("*"), aside))
        try:
            os.rename(aside, parent / name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        _sync(parent)
        return True
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_folder(parent: ObjectPath, folder: tuple[str, Mapping[str, Content]]) -> None:
    name, files = folder
    for file, content in files.items():
        (parent / name / file).write_bytes(content)


def _write_folders(parent: Path, folders: Mapping[str, Mapping[str, Content]]) -> None:
    aside = parent / f".{uuid4().hex}"
    aside.mkdir(parents=True)
    try:
        for name, files in folders.items():
            (aside / name).mkdir()
            for file, content in files.items():
                (aside / name / file).write_bytes(content)
        # The files first, then the folders with their names.
        _sync_all([*aside.glob("*/*"), *aside.glob("*")])
        for name in folders:
            # A folder cannot be renamed onto one that has files; the old one is deleted with `aside`.
            if (parent / name).exists():
                os.rename(parent / name, aside / f".{name}")
            os.rename(aside / name, parent / name)
        _sync(parent)
    finally:
        shutil.rmtree(aside)


def clear_unfinished(parent: Location) -> None:
    """Deletes unfinished folders of a killed `write_folders_durably`. No other process may be writing there."""
    if isinstance(parent, ObjectPath) or not parent.is_dir():
        return
    for unfinished in parent.glob(".*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync_all(paths: Iterable[Path]) -> None:
    for _ in _flushing_threads().map(_sync, paths):
        pass


@cache
def _flushing_threads() -> ThreadPoolExecutor:
    """Returns the threads of this process that flush: starting them anew takes as long as a flush."""
    return ThreadPoolExecutor(_SYNCING, thread_name_prefix="flush")


os.register_at_fork(after_in_child=_flushing_threads.cache_clear)  # a forked process has none of the threads


def _sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk."""
    # fsync works on any open descriptor of the file, also on a read-only one, and a folder can be opened in no other way.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network mounts cannot flush a folder. Their servers keep renames in order by themselves.
        if error.errno not in _NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
