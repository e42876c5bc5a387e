"""Writes files so that a reader sees all of each or nothing, also after a power cut."""

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from uuid import uuid4

from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import in_words

Content = bytes | memoryview
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_SYNCING = 8  # threads: a file system writes down for many at once what one at a time it writes down again and again


def write_durably(path: Location, content: Content) -> None:
    """Write beside `path` under a hidden name, flush to disk, move into place. Replaces what was there.

    In an object store it is one put. Raises `StorageError` where it cannot be written; then what was there still is.
    """
    if isinstance(path, ObjectPath):
        path.write_bytes(content)
        return
    with in_words(path):
        _write(path, content)


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{uuid4().hex}"
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync(path.parent)  # a rename is only in memory until its folder is written


def write_folders_durably(parent: Location, folders: Mapping[str, Mapping[str, Content]]) -> None:
    """Write whole folders of files, by folder and file name, each of which stands complete or not at all.

    They are written into one hidden folder beside them and flushed together. A folder that was there is replaced. In an object
    store each folder's files are put in their order: where the last one stands, the others do.
    """
    if isinstance(parent, ObjectPath):
        with ThreadPoolExecutor(_SYNCING) as pool:
            for _ in pool.map(partial(_put_folder, parent), folders.items()):
                pass
        return
    with in_words(parent):
        _write_folders(parent, folders)


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
        _sync_all([*aside.glob("*/*"), *aside.glob("*")])
        for name in folders:
            if (parent / name).exists():
                os.rename(parent / name, aside / f".{name}")
            os.rename(aside / name, parent / name)
        _sync(parent)
    finally:
        shutil.rmtree(aside)


def clear_unfinished(parent: Location) -> None:
    """Deletes what a killed `write_folders_durably` left beside the folders. Nobody may be writing there."""
    if isinstance(parent, ObjectPath) or not parent.is_dir():
        return
    for left in parent.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def _sync_all(paths: Iterable[Path]) -> None:
    with ThreadPoolExecutor(_SYNCING) as pool:
        for _ in pool.map(_sync, paths):
            pass


def _sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network mounts cannot flush a folder. Their servers keep renames in order by themselves.
        if error.errno not in _NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
