"""A file of JSON lines that only grows: what was decided while a study ran, so that a later call decides nothing anew."""

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """One writer at a time. A line is on disk when `append` returns; one that a kill cut off never was."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Any]:
        """All entries, in the order in which they were written."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, entry: Any) -> None:
        """Adds one, after dropping what a kill left of another."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.seek(0)
            whole, newline, _ = file.read().rpartition(b"\n")
            file.truncate(len(whole) + len(newline))
            file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
