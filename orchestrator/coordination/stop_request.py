"""Stops a study gracefully: the first Ctrl-C or SIGTERM requests a stop, the second one interrupts at once.

SIGHUP, of a closed terminal or a lost connection, only requests a stop: it often comes twice.
"""

import errno
import logging
import os
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

_PREFIX = ".stop-"

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StudyStoppedError(StorageError):
    """The storage of results failed during a study, which then stopped gracefully; finished results are kept."""


@dataclass
class StopRequest:
    """The request to stop a study, and its reason.

    Args:
        file: the control file that tells trials in other processes to stop.
        requested: whether a stop was requested.
        signal_number: the signal that requested it, if any.
        fault: the message of the storage error that requested it, if any.
        handed_over: whether another driver has taken over the results folder, so that its files must not be touched.
        signals: the signals to handle.
    """

    file: Location
    requested: bool = False
    signal_number: int | None = None
    fault: str | None = None
    handed_over: bool = False
    signals: tuple[signal.Signals, ...] = SIGNALS

    def request(self, signal_number: int | None = None) -> None:
        """Requests a stop: running trials write a checkpoint and end as INTERRUPTED."""
        if not self.requested:
            # Set before the file is written, so that a second signal during the write interrupts.
            self.requested, self.signal_number = True, signal_number
            try:
                self.file.touch()
            except OSError as error:
                logger.warning("trials in other processes cannot be told to stop: %s", error)

    def stop_on_fault(self, fault: str) -> None:
        """Requests a stop because the study cannot go on; it ends with the first such message."""
        self.fault = self.fault or fault
        self.request()

    def hand_over(self, fault: str) -> None:
        """Requests a stop because another driver has taken over the results folder."""
        self.handed_over = True
        self.stop_on_fault(fault)

    def install_signal_handlers(self) -> None:
        """Handles the signals. Call it again after `ray.init`, which replaces the handler of SIGTERM."""
        if threading.current_thread() is threading.main_thread():  # Python allows it in no other thread
            for number in self.signals:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        elif self.requested:
            raise KeyboardInterrupt
        self.request(number)


def _leave_terminal() -> None:
    """Redirects output to a terminal to nowhere: writing to one that was closed raises an error."""
    with open(os.devnull, "r+b") as nowhere:
        for descriptor in (0, 1, 2):
            try:
                os.ttyname(descriptor)
            except OSError as error:
                # A closed terminal answers EIO, anything else ENOTTY.
                if error.errno != errno.EIO:
                    continue
            os.dup2(nowhere.fileno(), descriptor)


@contextmanager
def stop_on_storage_failure(stop: StopRequest) -> Iterator[None]:
    """Raises `StudyStoppedError` at the end of the block if storage failed inside it, in this process or in a trial."""
    try:
        yield
    except StorageError as error:
        stop.fault = stop.fault or str(error)
    if stop.fault is not None:
        raise StudyStoppedError(stop.fault)


@contextmanager
def stop_request(folder: Location) -> Iterator[StopRequest]:
    """Handles SIGINT, SIGTERM and SIGHUP inside the block (in the main thread), and removes the control file afterwards.

    The file has a unique name: a driver that has lost the folder stops its own trials, not those of the new driver.
    """
    file = folder / f"{_PREFIX}{uuid4().hex[:8]}"
    with in_words(folder):
        # No other driver can be at work here: the caller holds the lease.
        for path in folder.iterdir():
            if path.name.startswith(_PREFIX):  # left by a driver that was killed
                path.unlink(missing_ok=True)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # Under nohup, SIGHUP is ignored and stays so.
    handled = tuple(n for n in SIGNALS if n != signal.SIGHUP or before[n] is not signal.SIG_IGN)
    request = StopRequest(file, signals=handled)
    request.install_signal_handlers()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be deleted; the next run deletes it: %s", file, error)
