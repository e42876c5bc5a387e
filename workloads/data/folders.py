"""The folders of data and caches on this machine, and the search for files in them."""

import os
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pruneyard.workloads.data.dataset import DataNotFoundError, PublishedSource, Source
from pruneyard.workloads.plugins import name_of


def cache_folder() -> Path:
    """Returns `$PRUNEYARD_CACHE`, or `~/.cache/pruneyard` if it is not set."""
    configured = os.environ.get("PRUNEYARD_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "pruneyard"


@dataclass(frozen=True, kw_only=True)
class FileSource(PublishedSource, ABC):
    """A source that reads files from the first of several folders that contains them."""

    # Not part of the identity, because the place of published files does not change their content.
    root: str | None = field(default=None, metadata={"identity": False})  # searched before the other folders

    def folders(self) -> list[Path]:
        """Returns `root` and `$PRUNEYARD_DATA`, as far as they are set, and the folder `data` of the cache."""
        configured = [self.root, os.environ.get("PRUNEYARD_DATA")]
        return [*(Path(name).expanduser() for name in configured if name), self.download_folder()]

    @staticmethod
    def download_folder() -> Path:
        """Returns the folder that downloads go to unless `root` is set: `$PRUNEYARD_DATA` is often shared and read-only."""
        return cache_folder() / "data"

    def find(self, relative: str, *, put: str, into: str = "") -> Path:
        """Returns the first folder that contains this file or folder.

        An absolute path is not searched for in the folders. Raises `DataNotFoundError` that says what to `put`
        there, or `into` which path.
        """
        for folder in self.folders():
            if (folder / relative).exists():
                return folder
        path = getattr(self, "path", None)
        if Path(relative).is_absolute():
            absent = f"path is {path!r}, which" if path == relative else f"path is {path!r}; {relative}"
            remedy = f"put {put} into {into}" if into else f"put {put} there"
            raise DataNotFoundError(f"{absent} does not exist; {remedy}, or give another path", source=self)
        remedy = f"put {put} into {into} under one of these" if into else f"put {put} under one of these"
        raise not_found(self, relative, searched=self.folders(), remedy=f"{remedy}, or set root")


def not_found(source: Source, what: str, *, searched: Sequence[Path], remedy: str) -> DataNotFoundError:
    """Returns the error for files of a source that are in none of the folders `searched`; `remedy` says how to get them.

    The message begins with the key of the source's table that names the files: its path or its name.
    """
    # `dict.fromkeys` drops repetitions and keeps the order, as `root` may equal another folder.
    folders = ", ".join(dict.fromkeys(map(str, searched)))
    path = getattr(source, "path", None)
    subject = f"name is {name_of(source)!r}" if path is None else f"path is {path!r}"
    absent = f", which is in none of the folders {folders}" if path == what else f"; none of the folders {folders} has {what}"
    return DataNotFoundError(f"{subject}{absent}; {remedy}", source=source)


POINTERS = (b"version https://git-lfs.github.com", b"/annex/objects/")  # beginnings of the files that stand for absent content
MAX_POINTER_BYTES = 1024


def check_fetched(files: Sequence[Path]) -> None:
    """Raises `ValueError` if some of the files are links to absent files, or pointers of Git LFS or git-annex."""
    absent = [file for file in files if not file.exists() or _is_pointer(file)]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(files)} files have no content on this machine, the first is {absent[0]}: they are links or "
            "pointers to files that were not fetched. Fetch them (dvc pull, git annex get, git lfs pull), or delete the links"
        )


def _is_pointer(file: Path) -> bool:
    if not file.is_file() or file.stat().st_size > MAX_POINTER_BYTES:
        return False
    with file.open("rb") as opened:
        return opened.read(MAX_POINTER_BYTES).startswith(POINTERS)
