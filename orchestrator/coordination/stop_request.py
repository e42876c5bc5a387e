"""Stopping in order: the first Ctrl-C or SIGTERM asks, the second one does not wait."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from uuid import uuid4

from pruneyard.reports.location import Location
from pruneyard.reports.storage import StorageError, in_words

logger = logging.getLogger(__name__)



_MARK = ".stop-"


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StudyStoppedError(StorageError):
    """The storage of results failed in the middle of a study, which ended in order; what is finished is kept."""


@dataclass
class StopRequest:
    """Whether a study is to end; `mark` is the file by which trials in other processes learn of it.

    handed_over: another driver is at work in the folder, so that what lies there is its own.
    """

    mark: Location
    requested: bool = False
    signal_number: int | None = None
    fault: str | None = None
    handed_over: bool = False

    def ask(self, signal_number: int | None = None) -> None:
        """Trials write a checkpoint and end as INTERRUPTED."""
        if not self.requested:
            self.requested, self.signal_number = True, signal_number
            try:
                self.mark.touch()
            except OSError as error:
                logger.warning("trials in other processes cannot be told to stop: %s", error)

    def give_up(self, fault: str) -> None:
        """Asks because the storage of results failed: the first such text is what the study ends with."""
        self.fault = self.fault or fault
        self.ask()

    def hand_over(self, fault: str) -> None:
        """Gives up since another driver has taken the folder over."""
        self.handed_over = True
        self.give_up(fault)

    def listen(self) -> None:
        """Takes SIGINT and SIGTERM, or takes them back: Ray's start puts a handler of its own on SIGTERM."""
        if threading.current_thread() is threading.main_thread():  # no other thread can
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.ask(number)


@contextmanager
def stop_on_storage_failure(stop: StopRequest) -> Iterator[None]:
    """Raises `StudyStoppedError` where storage failed inside the block, here or in a trial that gave up because of it."""
    try:
        yield
    except StorageError as error:
        stop.fault = stop.fault or str(error)
    if stop.fault is not None:
        raise StudyStoppedError(stop.fault)


@contextmanager
def stop_request(folder: Location) -> Iterator[StopRequest]:
    """Handles SIGINT and SIGTERM inside the block (in the main thread); the mark is gone afterwards.

    It has a name of its own: a driver that has lost the folder stops its own trials, and not those of who has it now.
    """
    mark = folder / f"{_MARK}{uuid4().hex[:8]}"
    with in_words(folder):
        for left in folder.iterdir():
            if left.name.startswith(_MARK):
                left.unlink(missing_ok=True)
    request = StopRequest(mark)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    request.listen()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
        try:
            mark.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s stays behind until the next run: %s", mark, error)
