"""Where data and caches lie on this machine, and the search through those folders."""

import os
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pruneyard.workloads.data.dataset import DataNotFoundError, Publisher


def cache_folder() -> Path:
    """`$PRUNEYARD_CACHE`, or `~/.cache/pruneyard`."""
    named = os.environ.get("PRUNEYARD_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "pruneyard"


@dataclass(frozen=True, kw_only=True)
class FileSource(Publisher, ABC):
    """A source that reads files under the first of several folders that has them."""

    root: str | None = field(default=None, metadata={"identity": False})  # searched before the other folders

    def folders(self) -> list[Path]:
        """`root`, `$PRUNEYARD_DATA` and the cache's `data`, as far as they are set."""
        named = [self.root, os.environ.get("PRUNEYARD_DATA")]
        return [*(Path(name).expanduser() for name in named if name), self.own_folder()]

    @staticmethod
    def own_folder() -> Path:
        """Where downloads go unless `root` is set: `$PRUNEYARD_DATA` is often shared and read-only."""
        return cache_folder() / "data"

    def find(self, relative: str, *, put: str) -> Path:
        """The first folder with this file or folder in it; raises `DataNotFoundError`, which says what to `put` there.

        An absolute path is looked for where it says and nowhere else.
        """
        for folder in self.folders():
            if (folder / relative).exists():
                return folder
        if Path(relative).is_absolute():
            raise DataNotFoundError(f"{relative} not found; put {put}")
        raise not_found(relative, searched=self.folders(), remedy=f"put {put} under one of these, or set root")


def not_found(what: str, *, searched: Sequence[Path], remedy: str) -> DataNotFoundError:
    """The error for data that are in none of the folders `searched`; `remedy` says how to get them."""
    folders = ", ".join(dict.fromkeys(map(str, searched)))
    return DataNotFoundError(f"{what} not found in any of the folders {folders}; {remedy}")
