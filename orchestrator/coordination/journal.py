"""A file of JSON lines that only grows: what was decided while a study ran, so that a later call decides nothing anew."""

import json
import os
from pathlib import Path
from typing import Any

from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import in_words

ENTRIES_PER_OBJECT = 100


class Journal:
    """One writer at a time. A line is on disk when `append` returns; one that a kill cut off never was.

    In an object store, where nothing grows, it is a folder of pieces, of which the last one is put anew for every entry.
    """

    def __init__(self, path: Location) -> None:
        self.path = path
        self._last: tuple[int, list[str]] | None = None  # number and lines of the piece that is not full

    def lines(self) -> list[Any]:
        """All entries, in the order in which they were written."""
        if isinstance(self.path, ObjectPath):
            return [
                json.loads(line)
                for piece in self._pieces(self.path)
                for line in piece.read_text().splitlines()
            ]
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, entry: Any) -> None:
        """Adds one, after dropping what a kill left of another. Raises `StorageError` where it cannot be written."""
        line = json.dumps(entry, separators=(",", ":"))
        if isinstance(self.path, ObjectPath):
            self._put(self.path, line)
            return
        with in_words(self.path):
            self._append(self.path, line)

    def _append(self, path: Path, line: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            whole, newline, _ = file.read().rpartition(b"\n")
            file.truncate(len(whole) + len(newline))
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _put(self, path: ObjectPath, line: str) -> None:
        if self._last is None:
            pieces = self._pieces(path)
            self._last = (len(pieces) - 1, pieces[-1].read_text().splitlines()) if pieces else (0, [])
        number, lines = self._last
        if len(lines) == ENTRIES_PER_OBJECT:
            number, lines = number + 1, []
        lines = [*lines, line]
        (path / f"{number:06d}").write_bytes("\n".join(lines).encode())
        self._last = number, lines

    @staticmethod
    def _pieces(path: ObjectPath) -> list[ObjectPath]:
        return sorted(path.iterdir())
