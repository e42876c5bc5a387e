"""The folders of data and caches on this machine, and the search for files in them."""

import os
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pruneyard.workloads.data.dataset import DataNotFoundError, PublishedSource


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

    def find(self, relative: str, *, put: str) -> Path:
        """Returns the first folder that contains this file or folder.

        An absolute path is not searched for in the folders. Raises `DataNotFoundError` that says what to `put` there.
        """
        for folder in self.folders():
            if (folder / relative).exists():
                return folder
        if Path(relative).is_absolute():
            raise DataNotFoundError(f"{relative} not found; put {put}")
        raise not_found(relative, searched=self.folders(), remedy=f"put {put} under one of these, or set root")


def not_found(what: str, *, searched: Sequence[Path], remedy: str) -> DataNotFoundError:
    """Returns the error for data that are in none of the folders `searched`; `remedy` says how to get them."""
    # `dict.fromkeys` drops repetitions and keeps the order, as `root` may equal another folder.
    folders = ", ".join(dict.fromkeys(map(str, searched)))
    return DataNotFoundError(f"{what} not found in any of the folders {folders}; {remedy}")
