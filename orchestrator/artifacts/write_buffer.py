"""Writes what short jobs leave, artifacts, then rows: those of many together, since to write takes longer than such a job.

Where the rows of a run stand, its artifact stands. A process that dies before it has written leaves nothing: its short jobs
are not finished, and are run again.
"""

import time
from collections.abc import Mapping

from pruneyard.reports.durable import Content, write_folders_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Attempt, Store

MAX_BUFFERED_S = 0.5  # that the first of the attempts held waits for the last


MAX_BUFFERED_BYTES = 2**26  # of files


class WriteBuffer:
    """What one process has still to write. It does so when enough has come, or when `write` is called."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._store = folder, Store(folder)
        self._attempts: list[Attempt] = []
        self._files: dict[str, Mapping[str, Content]] = {}
        self._size, self._since = 0, 0.0

    def add(self, attempt: Attempt, files: Mapping[str, Content]) -> None:
        """A run's newest attempt, with the files of its artifact; none where it left none."""
        if not self._attempts:
            self._since = time.monotonic()
        self._attempts.append(attempt)
        if files:
            self._files[attempt.run.run_key] = files
        self._size += sum(len(content) for content in files.values())
        if self._size > MAX_BUFFERED_BYTES or time.monotonic() - self._since > MAX_BUFFERED_S:
            self.write()

    def write(self) -> None:
        """All that is held."""
        if self._files:
            write_folders_durably(self._folder.artifacts, self._files)
        if self._attempts:
            self._store.write_together(self._attempts)
        self._attempts, self._files, self._size = [], {}, 0
