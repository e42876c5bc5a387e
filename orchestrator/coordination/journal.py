"""An append-only file of JSON lines with the decisions made while a study ran, so that later calls repeat none of them."""

import json
import os
from pathlib import Path
from typing import Any

from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import in_words

ENTRIES_PER_OBJECT = 100


class Journal:
    """An append-only list of JSON values with one writer at a time.

    An entry is on disk when `append` returns; an entry cut off by a kill does not exist. In an object store, where nothing can
    be appended to, the journal is a folder of objects, of which the last one is written again for every entry.
    """

    def __init__(self, path: Location) -> None:
        self.path = path
        self._last: tuple[int, list[str]] | None = None  # number and lines of the object that is not full

    def lines(self) -> list[Any]:
        """Returns all entries in the order in which they were written."""
        if isinstance(self.path, ObjectPath):
            return [
                json.loads(line)
                for one in self._objects(self.path)
                for line in one.read_text().splitlines()
            ]
        if not self.path.exists():
            return []
        # A kill may have cut off what follows the last newline.
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, entry: Any) -> None:
        """Appends an entry, and first drops an incomplete one that a kill left. Raises `StorageError` if it cannot write."""
        line = json.dumps(entry, separators=(",", ":"))
        if isinstance(self.path, ObjectPath):
            self._put(self.path, line)
            return
        with in_words(self.path):
            self._append(self.path, line)

    def _append(self, path: Path, line: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In mode "a" every write goes to the end of the file, wherever `seek` and `read` have left the position.
        with path.open("a+b") as file:
            file.seek(0)
            whole, newline, _ = file.read().rpartition(b"\n")
            file.truncate(len(whole) + len(newline))
            file.write(line.encode() + b"\n")
            file.flush()
            # Decisions take effect once `append` returns, so the entry must survive a crash of the machine by then.
            os.fsync(file.fileno())

    def _put(self, path: ObjectPath, line: str) -> None:
        # Read only once: the journal has one writer.
        if self._last is None:
            objects = self._objects(path)
            self._last = (len(objects) - 1, objects[-1].read_text().splitlines()) if objects else (0, [])
        number, lines = self._last
        # A full object is not written again, which bounds what one entry costs.
        if len(lines) == ENTRIES_PER_OBJECT:
            number, lines = number + 1, []
        lines = [*lines, line]
        # Zero-padded, so that names sort as their numbers do.
        (path / f"{number:06d}").write_bytes("\n".join(lines).encode())
        self._last = number, lines

    @staticmethod
    def _objects(path: ObjectPath) -> list[ObjectPath]:
        return sorted(path.iterdir())
