"""Writes the artifacts, records and rows of many short jobs at once, since a write takes longer than such a job.

Artifacts are written before rows, so that a run with rows always has its artifact. A process that crashes before it has
written leaves nothing: its short jobs are not finished, and run again. Only files that a job wrote by itself stay: its record
waits hidden beside them until they are flushed. The driver finishes that for a process that crashed or is busy for long.
"""

import time
from collections.abc import Mapping

from pruneyard.reports.attempt import Attempt, encode_record, tables_of
from pruneyard.reports.durable import Content, FilesTogether, commit_together, write_folders_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

MAX_BUFFERED_S = 1.0  # how long the first buffered attempt waits
MAX_BUFFERED_BYTES = 2**26  # of artifact files


class WriteBuffer:
    """Collects attempts, and writes them once they are large or old enough, or when `write` is called."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._store = folder, Store(folder)
        self._attempts: list[Attempt] = []
        self._files: dict[str, Mapping[str, Content]] = {}
        self._written: list[FilesTogether] = []
        self._size, self._since = 0, 0.0

    def add(self, attempt: Attempt, files: Mapping[str, Content]) -> None:
        """Adds the newest attempt of a run with its artifact files, which are empty for an attempt that did not complete."""
        record = {self._folder.attempt_record(*attempt.owner).name: _checked_record(attempt)}
        self._files[attempt.run.run_key] = {**files, **record}
        self._size += sum(len(content) for content in files.values())
        self._hold(attempt)

    def add_written(self, attempt: Attempt, files: FilesTogether) -> None:
        """Adds an attempt whose artifact files are written aside, in a folder of its own; after a kill they are not lost."""
        files.add(self._folder.attempt_record(*attempt.owner), _checked_record(attempt))
        files.appear_unflushed()
        self._written.append(files)
        self._hold(attempt)

    def _hold(self, attempt: Attempt) -> None:
        if not self._attempts:
            self._since = time.monotonic()
        self._attempts.append(attempt)
        # There is no timer: what is still in the buffer after the last job is written by the caller of `write`.
        if self._size > MAX_BUFFERED_BYTES or time.monotonic() - self._since > MAX_BUFFERED_S:
            self.write()

    def write(self) -> None:
        """Writes everything in the buffer. What cannot be written is dropped, so that its jobs run again."""
        attempts, files, written = self._attempts, self._files, self._written
        # First, since this process may run jobs of other trials after an error.
        self._attempts, self._files, self._written, self._size = [], {}, [], 0
        commit_together(written)
        if files:
            write_folders_durably(self._folder.artifacts, files)
        if attempts:
            self._store.write_together(attempts)


def _checked_record(attempt: Attempt) -> bytes:
    """Returns the record of an attempt; raises for what the tables cannot hold before other attempts are written with it."""
    tables_of([attempt])
    return encode_record(attempt)
