"""Writes the artifacts, records and rows of many short jobs at once, since a write takes longer than such a job.

Artifacts are written before rows, so that a run with rows always has its artifact. A process that crashes before it has
written leaves nothing: its short jobs are not finished, and run again.
"""

import time
from collections.abc import Mapping

from pruneyard.reports.attempt import Attempt, encode_record, tables_of
from pruneyard.reports.durable import Content, write_folders_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

MAX_BUFFERED_S = 0.5  # how long the first buffered attempt waits
MAX_BUFFERED_BYTES = 2**26  # of artifact files


class WriteBuffer:
    """Collects attempts, and writes them once they are large or old enough, or when `write` is called."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._store = folder, Store(folder)
        self._attempts: list[Attempt] = []
        self._files: dict[str, Mapping[str, Content]] = {}
        self._size, self._since = 0, 0.0

    def add(self, attempt: Attempt, files: Mapping[str, Content]) -> None:
        """Adds the newest attempt of a run with its artifact files, which are empty for an attempt that did not complete."""
        if not self._attempts:
            self._since = time.monotonic()
        self._attempts.append(attempt)
        record = {self._folder.attempt_record(*attempt.owner).name: encode_record(tables_of([attempt]))}
        self._files[attempt.run.run_key] = {**files, **record}
        self._size += sum(len(content) for content in files.values())
        # There is no timer: what is still in the buffer after the last job is written by the caller of `write`.
        if self._size > MAX_BUFFERED_BYTES or time.monotonic() - self._since > MAX_BUFFERED_S:
            self.write()

    def write(self) -> None:
        """Writes everything in the buffer."""
        if self._files:
            write_folders_durably(self._folder.artifacts, self._files)
        if self._attempts:
            self._store.write_together(self._attempts)
        self._attempts, self._files, self._size = [], {}, 0
